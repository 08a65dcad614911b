// Streamers with the counts of their streams, as rows.
import { labelFilter } from './filters';
import type { Health, Maintenance, StateCode, StateName, StreamerEntity } from './model';
import type { Rows } from './pages';

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

/** How far the maintenance of a streamer can be. */
export const MAINTENANCE_STAGES = ['cordoned', 'draining', 'drained'] as const;
export type MaintenanceStage = (typeof MAINTENANCE_STAGES)[number];

export const stageOf = (maintenance: Maintenance): MaintenanceStage => {
  if (maintenance.mode === 'cordon') return 'cordoned';
  return maintenance.drained_at ? 'drained' : 'draining';
};

/** What a drain has left on its streamer; `null` if that is unknown. */
export const leftOf = ({ ingests, backups, inferences }: Maintenance): number | null =>
  ingests === undefined ? null : ingests + (backups ?? 0) + (inferences ?? 0);

/** What a list can be filtered by. A streamer that may be lost is that, also while cordoned. */
export type StateFilter = StateName | MaintenanceStage;
export const STATE_CODES: Record<StateFilter, StateCode> = {
  up: 'up',
  held: 'probation',
  unknown: 'unsure',
  offline: 'down',
  draining: 'draining',
  drained: 'drained',
  cordoned: 'cordoned',
};
export const STATES = Object.keys(STATE_CODES) as StateFilter[];

/** What the rows of the list are made of, all of which changes by itself or by a save. */
export const STREAMER_FIELDS = [
  'hostname',
  'labels',
  'channel_limit',
  'total_bandwidth',
  'health',
  'load.ingests',
  'state',
  'streams.outage',
  'stats.cpu_usage',
  'stats.memory_usage',
  'stats.input_kbit',
  'stats.output_kbit',
  'stats.total_clients',
  'stats.partitions',
  'stats.uptime',
  'stats.server_version',
].join(',');

/** What a list is sorted by, as addresses name it and as the API does. */
const SORTS: Record<string, string> = {
  hostname: 'hostname',
  state: 'state.name',
  assigned: 'load.ingests',
  cpu: 'stats.cpu_usage',
  mem: 'stats.memory_usage',
  out: 'stats.output_kbit',
  viewers: 'stats.total_clients',
  errors: 'streams.outage',
  uptime: 'stats.uptime',
  version: 'stats.server_version',
};

function sortOf(sort: string): string | undefined {
  const field = SORTS[sort.replace('-', '')];
  return field && (sort.startsWith('-') ? `-${field}` : field);
}

export const STREAMER_FILTERS = ['q', 'label', 'state', 'health'] as const;
type StreamersAddress = Partial<Record<string, string>>;

/** The parameters of a query for streamers. Those of a group follow each other in a grid. */
export function streamersQuery(address: StreamersAddress): Record<string, string | undefined> {
  const { q, label, state, health, sort, view, group } = address;
  const byGroup = view === 'grid' && group ? `labels.${group}` : undefined;
  return {
    q,
    health,
    'state.code': state && (STATE_CODES[state as StateFilter] ?? state),
    ...(label ? labelFilter(label) : {}),
    sort: [byGroup, sortOf(sort ?? '')].filter(Boolean).join(','),
    select: STREAMER_FIELDS,
  };
}

/** Cells of a grid at most: their pages are kept, so that none vanishes above the view. */
export const CELLS_MAX = 1400;

/** The rows that were read, by the value of their label, in the order of the list. */
export function groupsOf(
  rows: Pick<Rows<StreamerRow>, 'length' | 'row'>,
  group: string,
): [string, StreamerRow[]][] {
  const groups = new Map<string, StreamerRow[]>();
  for (let index = 0; index < Math.min(rows.length, CELLS_MAX); index += 1) {
    const row = rows.row(index);
    if (!row) continue;
    const key = group ? (row.labels[group] ?? '–') : '';
    const found = groups.get(key);
    if (found) found.push(row);
    else groups.set(key, [row]);
  }
  return [...groups];
}
