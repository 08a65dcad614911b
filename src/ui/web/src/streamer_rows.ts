// Streamers with the counts of their streams, as rows.
import type { Health, Maintenance, StateName, StreamerEntity } from './model';

/** The limit of a streamer without one of its own. */
export const CHANNELS_USUAL = 6000;

export interface StreamerRow {
  hostname: string;
  labels: Record<string, string>;
  state: StateName;
  maintenance?: Maintenance;
  health: Health;
  assigned: number;
  limit: number;
  bandwidth?: number;
  /** Unknown in a large cluster until streams were counted. */
  errors?: number;
  cpu?: number;
  mem?: number;
  in?: number;
  out?: number;
  disk?: number;
  viewers?: number;
  uptime?: number;
  version?: string;
}

export type SortableField = keyof Omit<StreamerRow, 'labels' | 'maintenance'>;

/** The fullest partition. */
export function fullest(partitions: { usage?: number }[] | undefined): number | undefined {
  return partitions?.length ? Math.max(...partitions.map((it) => it.usage ?? 0)) : undefined;
}

export function rowOf(entity: StreamerEntity): StreamerRow {
  const { load, streams } = entity;
  const stats = entity.stats ?? {};
  const row: StreamerRow = {
    hostname: entity.hostname,
    labels: entity.labels ?? {},
    state: entity.state?.name ?? 'unknown',
    maintenance: entity.state?.maintenance,
    health: entity.health ?? 'outage',
    assigned: load?.ingests ?? 0,
    limit: entity.channel_limit ?? CHANNELS_USUAL,
    bandwidth: entity.total_bandwidth,
    errors: streams?.outage,
    cpu: stats.cpu_usage,
    mem: stats.memory_usage,
    in: stats.input_kbit,
    out: stats.output_kbit,
    disk: fullest(stats.partitions),
    viewers: stats.total_clients,
    uptime: stats.uptime,
    version: stats.server_version,
  };
  return row;
}

/** How far the maintenance of a streamer is. */
export const stageOf = (maintenance: Maintenance): 'cordoned' | 'draining' | 'drained' => {
  if (maintenance.mode === 'cordon') return 'cordoned';
  return maintenance.drained_at ? 'drained' : 'draining';
};

/** What a drain has left on its streamer; `null` if that is unknown. */
export const leftOf = ({ ingests, backups, inferences }: Maintenance): number | null =>
  ingests === undefined ? null : ingests + (backups ?? 0) + (inferences ?? 0);

/** What a list of streamers can be filtered by. A cordoned streamer has a state, too. */
export type StateFilter = StateName | 'cordoned';

export const isIn = (row: StreamerRow, state: string): boolean =>
  state === 'cordoned' ? row.maintenance !== undefined : row.state === state;

/** Rows whose names, labels and versions have all words, sorted. */
export function filtered(rows: StreamerRow[], filter: Record<string, string>): StreamerRow[] {
  const words = (filter.q ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  const textOf = (row: StreamerRow) => {
    const labels = Object.entries(row.labels).map(([key, value]) => `${key}=${value}`);
    return [row.hostname, ...labels, row.version ?? ''].join(' ').toLowerCase();
  };
  const kept = rows.filter(
    (row) =>
      (!filter.state || isIn(row, filter.state)) &&
      (!filter.health || row.health === filter.health) &&
      words.every((word) => textOf(row).includes(word)),
  );
  const sort = filter.sort ?? '';
  const key = sort.replace('-', '') as SortableField;
  if (!key) return kept;
  const sign = sort.startsWith('-') ? -1 : 1;
  const value = (row: StreamerRow) => row[key] ?? -1;
  return kept.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return (x < y ? -1 : x > y ? 1 : 0) * sign;
  });
}
