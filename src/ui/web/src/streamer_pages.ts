// Pages of streamers as the table and the grid show them.
import { useMemo } from 'preact/hooks';
import { useFreshRows, useRefresh, type RowsInView } from './fresh_rows';
import type { EventRecord, StreamerEntity } from './model';
import { usePages, type Rows } from './pages';
import { rowOf, STREAMER_FIELDS, streamersQuery, type StreamerRow } from './streamer_rows';

const IN_VIEW: RowsInView<'streamers'> = {
  path: '/streamers',
  collection: 'streamers',
  by: 'hostname',
  select: STREAMER_FIELDS,
  isAbout: (it) => it.event === 'layouter_streamer_state',
};

/** Whether an event may change which streamers there are. */
const isSave = (event: EventRecord) =>
  event.event === 'api_call' && event.entity_type === 'streamer';

/** The streamers that an address names, by pages; those in view are refreshed. */
export function useStreamers(address: Record<string, string>) {
  const query = useMemo(() => streamersQuery(address), [address]);
  const pages = usePages<'streamers', StreamerEntity>('/streamers', query, 'streamers');
  const fresh = useFreshRows(pages, IN_VIEW);
  useRefresh(pages, isSave);
  const rows: Rows<StreamerRow> = {
    ...pages,
    row: (index) => {
      const entity = pages.row(index);
      return entity && rowOf(entity);
    },
  };
  return { pages, rows, ...fresh };
}
