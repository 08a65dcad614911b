// Changes of what is shown. A save makes an entity that does not exist, so each of these has a
// condition: what was deleted meanwhile stays deleted.
import { ApiError, exchange, post, postLines, put, remove } from './api';
import { parse, streamPath, url } from './json';
import type { LoadChange } from './model';
import { t } from './text';

/** Nothing was changed, because what was shown is no longer what is stored. */
export class ConflictError extends Error {
  /** The entities that do not exist any more; none: another change came first. */
  readonly gone: string[];

  constructor(gone: string[]) {
    const names = gone.join(', ');
    super(gone.length ? t('change.gone', { n: gone.length, names }) : t('change.late'));
    this.gone = gone;
  }
}

const isConflict = (error: unknown): error is ApiError =>
  error instanceof ApiError && error.status === 412;

/** Whether a change was refused only because another one came first. */
export const isLate = (error: unknown): boolean =>
  error instanceof ConflictError && error.gone.length === 0;

/** The tag of the stored version. */
export const tagOf = async (path: string) => (await exchange<null>('HEAD', path)).etag;

/** The same; `undefined` if there is no such entity. */
async function tagIfAny(path: string): Promise<string | null | undefined> {
  try {
    return await tagOf(path);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}

const exists = async (path: string) => (await tagIfAny(path)) !== undefined;

/** An entity that is shown. */
export interface Shown {
  path: string;
  name: string;
  /** The tag of the version that is shown. */
  etag: string | null;
}

async function ifUnchanged(
  { path, name, etag }: Shown,
  change: (headers: Record<string, string>) => Promise<unknown>,
): Promise<void> {
  try {
    await change({ 'If-Match': etag ?? '*' });
  } catch (error) {
    if (!isConflict(error)) throw error;
    throw new ConflictError((await exists(path)) ? [] : [name]);
  }
}

/** Saves a merge patch, which is JSON, if the version that is shown is the stored one. */
export const changeShown = (shown: Shown, text: string) =>
  ifUnchanged(shown, (headers) => put(shown.path, { text, headers }));

/** Begins the maintenance of a streamer: it takes no new streams. */
export const beginMaintenance = (shown: Shown, reason: string) =>
  saveMaintenance(shown, { mode: 'cordon', reason });

/** How a streamer is drained. */
export interface DrainOrder {
  reason: string;
  /** Text that is no number is sent as it is: the server refuses it in its own words. */
  pace: number | string;
  deadline?: string;
  return: boolean;
}

export const beginDrain = (shown: Shown, order: DrainOrder) =>
  saveMaintenance(shown, { mode: 'drain', ...order });

/** What a drain of this streamer would mean. */
export interface DrainPreview {
  /** Of streamers whose loads would change. */
  changes: LoadChange[];
  /** Changes that this session may not see. */
  hidden?: number;
  moves_caused: number;
  no_place: number;
  no_place_sample: string[];
  summary: string;
}

/** `pace` as it is typed: the server refuses one that is wrong before the drain begins. */
export const previewDrain = ({ path }: Shown, pace: DrainOrder['pace'], signal: AbortSignal) =>
  put<DrainPreview>(`${path}/maintenance?dry_run=true`, { body: { mode: 'drain', pace }, signal });

/** A streamer that takes over, and how many streams, copies or analytics more it would have. */
export interface Target {
  hostname: string;
  role: string;
  n: number;
}

/** Where the streams of a streamer go, the largest number first. */
export const targetsOf = (hostname: string, changes: LoadChange[]): Target[] =>
  changes
    .filter((load) => load.delta > 0 && load.hostname !== hostname)
    .map((load) => ({ hostname: load.hostname, role: load.role, n: load.delta }))
    .sort((a, b) => b.n - a.n || (a.hostname < b.hostname ? -1 : 1));

/** What a pause of the layouter holds. */
export type PausedMoves = 'improving' | 'all';

export const pauseLayouter = (pause: { what: PausedMoves; reason: string; until?: string }) =>
  put('/layouter', { body: { pause } });

export const resumeLayouter = () => put('/layouter', { body: { pause: null } });

export const dropImproving = () => put('/layouter', { body: { drop: 'improving' } });

export const endMaintenance = (shown: Shown) => saveMaintenance(shown, { mode: 'none' });

const saveMaintenance = (shown: Shown, body: object) =>
  ifUnchanged(shown, (headers) => put(`${shown.path}/maintenance`, { body, headers }));

export const removeShown = (shown: Shown) =>
  ifUnchanged(shown, (headers) => remove(shown.path, { headers }));

/** Makes an entity, unless there is one of this name. Returns the server's answer. */
export async function create<T>(path: string, name: string, text: string): Promise<T> {
  try {
    return await put<T>(path, { text, headers: { 'If-None-Match': '*' } });
  } catch (error) {
    throw isConflict(error) ? new Error(t('change.exists', { name })) : error;
  }
}

export type Patch = Record<string, unknown>;

/** `key=value` as a patch of the labels. */
export function labelPatch(text: string): Patch {
  const [key = '', ...value] = text.split('=');
  return { labels: { [key.trim()]: value.join('=') || null } };
}

/** Saves one merge patch of many streams, if all of them exist: all or none. */
export async function changeStreams(
  names: string[],
  patch: Patch,
): Promise<void> {
  try {
    await put('/streams/batch', {
      body: names.map((name) => ({ ...patch, name, if_match: '*' })),
    });
  } catch (error) {
    throw isConflict(error) ? new ConflictError(error.names) : error;
  }
}

/** A stream that is placed by hand, in the version of the tag, if there is one. */
export type MovedStream = Pick<Shown, 'name' | 'etag'>;

/** Where streams are put, and whether they are kept there. */
export interface Placement {
  ingest: string;
  pinned: boolean;
}

/** What the layouter would do with a stream there. */
export interface LayoutVerdict {
  name: string;
  verdict: 'ok' | 'will_be_undone';
  reasons?: string[];
}

/** The streams of a batch of layouts that do not exist any more. */
function goneOf({ code, pointers }: ApiError, streams: MovedStream[]): string[] {
  if (code !== 'stream_not_found') return [];
  const indices = pointers.map((pointer) => Number(/^\/layouts\/(\d+)\//.exec(pointer)?.[1]));
  return indices.flatMap((index) => streams[index]?.name ?? []);
}

/** Places streams, if all of them exist in that version: all or none. */
async function place<T>(path: string, streams: MovedStream[], to: Placement): Promise<T> {
  const layouts = streams.map(({ name, etag }) => ({ ...to, name, if_match: etag ?? '*' }));
  try {
    return await post<T>(path, { body: { layouts } });
  } catch (error) {
    const gone = error instanceof ApiError ? goneOf(error, streams) : [];
    throw isConflict(error) || gone.length > 0 ? new ConflictError(gone) : error;
  }
}

/** The stream in the version that is stored now. */
export async function storedNow(name: string): Promise<MovedStream> {
  const etag = await tagIfAny(streamPath(name));
  if (etag === undefined) throw new ConflictError([name]);
  return { name, etag };
}

/** What would become of streams there. Nothing is changed. */
export const verdictsOf = async (streams: MovedStream[], to: Placement) =>
  (await place<{ layouts: LayoutVerdict[] }>('/streams/layouts?dry_run=true', streams, to)).layouts;

export const moveStreams = (streams: MovedStream[], to: Placement) =>
  place<null>('/streams/layouts', streams, to);

/** A change of all streams that match. */
export type MatchingChange =
  | { patch: Patch }
  | { move: { ingest: string; pinned: boolean } }
  | { delete: true };

/** What a change of all streams that match would be made to. */
export interface MatchingCount {
  count: number;
  /** Names the streams and what is stored of them. */
  revision: number;
  sample: string[];
  /** Streams that match and must not be changed. */
  read_only?: number;
  moves: { moves_caused: number; unplaced: number; unplaced_before: number } | null;
}

/** How far a change has got. */
export interface MatchingResult {
  done: number;
  count: number;
  ended?: 'complete' | 'error';
  errors?: { title?: string }[];
}

const BY_FILTER = '/streams/batch_by_filter';
/** Characters of filters in an address: proxies allow about 8,000 for all of it. */
const FILTER_LENGTH_MAX = 6000;

/** Filters of the list of streams. */
export type Filters = Record<string, string | undefined>;

/** Filters that match these streams and no other: as few as addresses have room for. */
export function queriesOf(names: string[]): Filters[] {
  const lists: string[][] = [];
  let room = 0;
  for (const name of names) {
    const length = encodeURIComponent(`${name},`).length;
    if (length > room || lists.length === 0) {
      lists.push([]);
      room = FILTER_LENGTH_MAX;
    }
    lists.at(-1)?.push(name);
    room -= length;
  }
  return lists.map((list) => ({ name: list.join(',') }));
}

export const countMatching = (query: Filters, change: MatchingChange) =>
  post<MatchingCount>(url(BY_FILTER, query), { body: change });

/** Changes the streams that were counted, or none if others match by now. */
async function changeCounted(
  query: Filters,
  change: MatchingChange,
  { count, revision }: MatchingCount,
  onProgress: (result: MatchingResult) => void,
): Promise<void> {
  const path = url(BY_FILTER, { ...query, apply: true });
  const body = { ...change, expect: { count, revision } };
  const last = await postLines<MatchingResult>(path, { body }, onProgress);
  if (last?.ended === 'complete') return;
  throw new Error(last?.errors?.[0]?.title ?? t('change.cut'));
}

/** Changes what several filters match, one after the other, as it was counted for each. */
export async function changeMatching(
  queries: Filters[],
  change: MatchingChange,
  counts: MatchingCount[],
  onProgress: (done: number) => void,
): Promise<void> {
  let [before, done] = [0, 0];
  for (const [index, query] of queries.entries()) {
    const counted = counts[index];
    if (!counted) return;
    try {
      await changeCounted(query, change, counted, (result) => {
        done = before + result.done;
        onProgress(done);
      });
    } catch (error) {
      // Refused before anything was changed, the reason alone is the whole answer.
      if (done === 0 && error instanceof ApiError) throw error;
      throw new Error(t('change.partly', { n: done, why: (error as Error).message }));
    }
    before += counted.count;
  }
}

/** Refuses what is no merge patch. The text itself is sent: it has all digits of its integers. */
export function checkedPatch(text: string): string {
  const patch = parse(text);
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) {
    throw new Error(t('edit.not_object'));
  }
  return text;
}
