// Changes of what is shown. A save makes an entity that does not exist, so each of these has a
// condition: what was deleted meanwhile stays deleted.
import { ApiError, exchange, post, postLines, put, remove } from './api';
import { parse, url } from './json';
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

/** The tag of the stored version. */
export const tagOf = async (path: string) => (await exchange<null>('HEAD', path)).etag;

async function exists(path: string): Promise<boolean> {
  try {
    await tagOf(path);
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return false;
    throw error;
  }
}

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
  moves_caused: number;
  no_place: number;
  no_place_sample: string[];
  summary: string;
}

export const previewDrain = ({ path }: Shown) =>
  put<DrainPreview>(`${path}/maintenance?dry_run=true`, { body: { mode: 'drain' } });

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

/** Saves one merge patch of many streams, if all of them exist: all or none. */
export async function changeStreams(
  names: string[],
  patch: Record<string, unknown>,
): Promise<void> {
  try {
    await put('/streams/batch', {
      body: names.map((name) => ({ ...patch, name, if_match: '*' })),
    });
  } catch (error) {
    throw isConflict(error) ? new ConflictError(error.names) : error;
  }
}

/** A change of all streams that match. */
export type MatchingChange =
  | { patch: Record<string, unknown> }
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

export const countMatching = (query: Record<string, unknown>, change: MatchingChange) =>
  post<MatchingCount>(url(BY_FILTER, query), { body: change });

/** Changes the streams that were counted, or none if others match by now. */
export async function changeMatching(
  query: Record<string, unknown>,
  change: MatchingChange,
  { count, revision }: MatchingCount,
  onProgress: (result: MatchingResult) => void,
): Promise<void> {
  const path = url(BY_FILTER, { ...query, apply: true });
  const body = { ...change, expect: { count, revision } };
  const last = await postLines<MatchingResult>(path, { body }, onProgress);
  if (last?.ended === 'complete') return;
  const why = last?.errors?.[0]?.title ?? t('change.cut');
  throw new Error(t('change.partly', { n: last?.done ?? 0, why }));
}

/** Refuses what is no merge patch. The text itself is sent: it has all digits of its integers. */
export function checkedPatch(text: string): string {
  const patch = parse(text);
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) {
    throw new Error(t('edit.not_object'));
  }
  return text;
}
