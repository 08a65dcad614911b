// Data on a screen: read when it is shown, refreshed while it is visible.
import { useEffect, useRef, useState } from 'preact/hooks';
import { exchange, type Answer } from './api';
import { onEvents } from './live';
import type { EventRecord } from './model';
import { oneAtATime } from './one_at_a_time';

/** Last answers by path, so that a screen that is shown again has data at once. */
const cache = new Map<string, Answer<unknown>>();
const CACHED_MAX = 60;
/** Events that arrive within this time cause one refresh. */
const COALESCE_MS = 150;

function remember(path: string, answer: Answer<unknown>): void {
  cache.delete(path);
  cache.set(path, answer);
  const oldest = cache.keys().next();
  if (cache.size > CACHED_MAX && !oldest.done) cache.delete(oldest.value);
}

const cached = <T>(path: string | null) =>
  path === null ? null : ((cache.get(path) as Answer<T> | undefined) ?? null);

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
  answer: Answer<T> | null;
  error: Error | null;
}

export interface QueryResult<T> {
  data: T | null;
  /** Names the version of the entity that is shown. */
  etag: string | null;
  error: Error | null;
  again: () => void;
}

/** The answer of a GET; what was shown stays when a refresh fails. */
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
    set({ path, answer: cached<T>(path), error: null });
    // A change that comes during a read may be missing from its answer: it is read once more.
    const read = oneAtATime(async () => {
      if (abort.signal.aborted || document.hidden) return;
      clearTimeout(timer);
      try {
        const { data, etag } = await exchange<T>('GET', path, { signal: abort.signal });
        const answer = { data: keep ? keep(data) : data, etag };
        remember(path, answer);
        set({ path, answer, error: null });
      } catch (error) {
        if (abort.signal.aborted) return;
        set((old) => ({ ...old, error: error as Error }));
      }
      if (every) timer = window.setTimeout(read, every);
    });
    again.current = read;
    void read();
    document.addEventListener('visibilitychange', read);
    const off = onEvents((events) => {
      if (!wakes.current?.(events)) return;
      clearTimeout(soon);
      soon = window.setTimeout(read, COALESCE_MS);
    });
    return () => {
      abort.abort();
      clearTimeout(timer);
      clearTimeout(soon);
      document.removeEventListener('visibilitychange', read);
      off();
    };
  }, [path, every]);
  const fits = state.path === path;
  const answer = fits ? state.answer : cached<T>(path);
  return {
    data: answer?.data ?? null,
    etag: answer?.etag ?? null,
    error: fits ? state.error : null,
    again: () => again.current(),
  };
}
