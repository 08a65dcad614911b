// The filters of the list of streams: from the address to parameters of the API.

const FIELDS =
  'name,title,disabled,health,layout.ingest,labels,updated_at,' +
  'stats.status,stats.bitrate,stats.online_clients';

/** The members of rows that change by themselves. */
export const MOVING_FIELDS =
  'name,disabled,health,layout.ingest,updated_at,' +
  'stats.status,stats.bitrate,stats.online_clients';

export const FILTERS = [
  'q',
  'health',
  'status',
  'streamer',
  'label',
  'enabled',
  'placed',
] as const;
export type StreamFilters = Partial<Record<(typeof FILTERS)[number] | 'sort', string>>;

/** `key=value` as a filter of the API. Without a value the label only has to exist. */
export function labelFilter(label: string): Record<string, string> {
  const [key = '', ...value] = label.split('=');
  if (!key) return {};
  return value.length
    ? { [`labels.${key}`]: value.join('=') }
    : { [`labels.${key}_is_not`]: 'null' };
}

/** The parameters of a query for streams. */
export const streamsQuery = (filters: StreamFilters): Record<string, string | undefined> => ({
  sort: filters.sort,
  select: FIELDS,
  ...matchingQuery(filters),
});

/** Those that decide which streams match. */
export function matchingQuery(filters: StreamFilters): Record<string, string | undefined> {
  const query: Record<string, string | undefined> = {
    q: filters.q,
    health: filters.health,
    'layout.ingest': filters.streamer,
  };
  if (filters.status === 'none') query['stats.status_is'] = 'null';
  else if (filters.status) query['stats.status'] = filters.status;
  if (filters.label) Object.assign(query, labelFilter(filters.label));
  if (filters.enabled) query[filters.enabled === 'yes' ? 'disabled_ne' : 'disabled'] = 'true';
  // The server has the names of those without a streamer; it need not look at all streams.
  if (filters.placed) query.placed = filters.placed === 'yes' ? 'true' : 'false';
  return query;
}
