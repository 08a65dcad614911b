// Streamers as the table and the grid show them, read from the API.
import { useMemo } from 'preact/hooks';
import { url } from './json';
import type { Page, StreamerEntity } from './model';
import { useQuery } from './query';
import { rowOf } from './streamer_rows';

const FIELDS = [
  'hostname',
  'role',
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

/** All streamers, refreshed while the page is visible. */
export function useStreamers() {
  const path = url('/streamers', { limit: 10000, select: FIELDS });
  const list = useQuery<Page<'streamers', StreamerEntity>>(path, {
    every: 5000,
    wake: (events) =>
      events.some((it) => it.entity_type === 'streamer' || it.event === 'layouter_streamer_state'),
  });
  const rows = useMemo(() => (list.data?.streamers ?? []).map(rowOf), [list.data]);
  return { rows, isReady: list.data !== null, error: list.error, again: list.again };
}
