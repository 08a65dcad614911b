// Data on a screen: read when it is shown, refreshed while it is visible.
import { useEffect, useRef, useState } from 'preact/hooks';
import { forgetAge, keepAge, keepAnswered } from './ages';
import { ApiError, exchange, type Answer } from './api';
import { pauseAfter } from './back_off';
import { onEvents, onLiveState } from './live';
import type { EventRecord } from './model';
import { oneAtATime } from './one_at_a_time';

/** An answer, and when it came. */
interface DatedAnswer<T> extends Answer<T> {
  at: number;
}

/** Last answers by path, so that a screen that is shown again has data at once. */
const cache = new Map<string, DatedAnswer<unknown>>();
const CACHED_MAX = 60;
/** Events that arrive within this time cause one refresh. */
const COALESCE_MS = 150;

function remember(path: string, answer: DatedAnswer<unknown>): void {
  cache.delete(path);
  cache.set(path, answer);
  const oldest = cache.keys().next();
  if (cache.size > CACHED_MAX && !oldest.done) cache.delete(oldest.value);
}

const cached = <T>(path: string | null) =>
  path === null ? null : ((cache.get(path) as DatedAnswer<T> | undefined) ?? null);

/** Forgets all answers: they belong to another session. */
export function forgetAnswers(): void {
  cache.clear();
}

interface QueryOptions<T> {
  /** Milliseconds between refreshes while the page is visible; 0: none. */
  every?: number;
  /** Whether events are a reason to refresh. */
  wake?: (events: EventRecord[]) => boolean;
  /** What is kept of an answer: nothing secret. All users of a path give the same one. */
  keep?: (data: unknown) => T;
}

interface QueryState<T> {
  path: string | null;
  answer: DatedAnswer<T> | null;
  error: Error | null;
}

export interface QueryResult<T> {
  data: T | null;
  /** Names the version of the entity that is shown. */
  etag: string | null;
  error: Error | null;
  again: () => void;
}

/**
 * The answer of a GET; what was shown stays when a refresh fails. A request without an answer is
 * repeated, with a back-off.
 */
export function useQuery<T>(
  path: string | null,
  { every = 0, wake, keep }: QueryOptions<T> = {},
): QueryResult<T> {
  const [state, set] = useState<QueryState<T>>({ path: null, answer: null, error: null });
  const again = useRef<() => void>(() => {});
  const wakes = useRef(wake);
  wakes.current = wake;
  useEffect(() => {
    if (path === null) return undefined;
    const abort = new AbortController();
    let timer = 0;
    let soon = 0;
    let failures = 0;
    set({ path, answer: cached<T>(path), error: null });
    // A change that comes during a read may be missing from its answer: it is read once more.
    const read = oneAtATime(async () => {
      if (abort.signal.aborted || document.hidden) return;
      clearTimeout(timer);
      try {
        const { data, etag } = await exchange<T>('GET', path, { signal: abort.signal });
        const answer = { data: keep ? keep(data) : data, etag, at: Date.now() };
        remember(path, answer);
        set({ path, answer, error: null });
        failures = 0;
      } catch (error) {
        if (abort.signal.aborted) return;
        set((old) => ({ ...old, error: error as Error }));
        failures = error instanceof ApiError ? 0 : failures + 1;
      }
      keepAnswered(again, failures === 0);
      const pause = failures === 0 ? every : Math.max(every, pauseAfter(failures));
      if (pause) timer = window.setTimeout(read, pause);
    });
    again.current = read;
    void read();
    document.addEventListener('visibilitychange', read);
    const off = onEvents((events) => {
      if (!wakes.current?.(events)) return;
      clearTimeout(soon);
      soon = window.setTimeout(read, COALESCE_MS);
    });
    const offLive = onLiveState((live) => {
      if (live === 'live' && failures > 0) void read();
    });
    return () => {
      abort.abort();
      clearTimeout(timer);
      clearTimeout(soon);
      document.removeEventListener('visibilitychange', read);
      off();
      offLive();
      keepAnswered(again, true);
    };
  }, [path, every]);
  const fits = state.path === path;
  const answer = fits ? state.answer : cached<T>(path);
  const at = answer?.at;
  const isRefreshed = every > 0 || wake !== undefined;
  useEffect(() => {
    if (at === undefined || !isRefreshed) return undefined;
    keepAge(again, at, every === 0);
    return () => forgetAge(again);
  }, [at, isRefreshed, every]);
  return {
    data: answer?.data ?? null,
    etag: answer?.etag ?? null,
    error: fits ? state.error : null,
    again: () => again.current(),
  };
}
