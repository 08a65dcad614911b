// Streamers as the table and the grid show them, read from the API.
import { useMemo } from 'preact/hooks';
import { url } from './json';
import type { ClusterStats, Page, StreamerEntity } from './model';
import { useQuery } from './query';
import { rowOf } from './streamer_rows';

const FIELDS = [
  'hostname',
  'role',
  'labels',
  'channel_limit',
  'total_bandwidth',
  'state',
  'stats.cpu_usage',
  'stats.memory_usage',
  'stats.input_kbit',
  'stats.output_kbit',
  'stats.total_clients',
  'stats.partitions',
  'stats.uptime',
  'stats.server_version',
].join(',');

/** All streamers, refreshed while the page is visible. */
export function useStreamers() {
  const path = url('/streamers', { limit: 10000, select: FIELDS });
  const list = useQuery<Page<'streamers', StreamerEntity>>(path, {
    every: 5000,
    wake: (events) =>
      events.some((it) => it.entity_type === 'streamer' || it.event === 'layouter_streamer_state'),
  });
  const stats = useQuery<ClusterStats>('/cluster/stats', { every: 10_000 });
  const rows = useMemo(() => {
    const health = new Map(stats.data?.streamer_metrics.map((it) => [it.hostname, it]));
    return (list.data?.streamers ?? []).map((entity) => rowOf(entity, health));
  }, [list.data, stats.data]);
  const isReady = list.data !== null;
  return { rows, isReady, error: list.error ?? stats.error, again: list.again };
}
