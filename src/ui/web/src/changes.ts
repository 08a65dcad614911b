// Changes of streams that are shown. A save makes a stream that does not exist, so each of these
// has a condition: a stream that was deleted meanwhile stays deleted.
import { ApiError, get, put } from './api';
import { streamPath } from './json';
import type { StreamEntity } from './model';
import { t } from './text';

/** Nothing was changed, because what was shown is no longer what is stored. */
export class ConflictError extends Error {
  /** The streams that do not exist any more; none: another change came first. */
  readonly gone: string[];

  constructor(gone: string[]) {
    const names = gone.join(', ');
    super(gone.length ? t('change.gone', { n: gone.length, names }) : t('change.late'));
    this.gone = gone;
  }
}

const isConflict = (error: unknown): error is ApiError =>
  error instanceof ApiError && error.status === 412;

async function exists(name: string): Promise<boolean> {
  try {
    await get<StreamEntity>(streamPath(name));
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return false;
    throw error;
  }
}

/** Saves a merge patch, which is JSON, if the version with this tag is the stored one. */
export async function changeStream(name: string, etag: string | null, text: string): Promise<void> {
  try {
    await put(streamPath(name), { text, headers: { 'If-Match': etag ?? '*' } });
  } catch (error) {
    if (!isConflict(error)) throw error;
    throw new ConflictError((await exists(name)) ? [] : [name]);
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
