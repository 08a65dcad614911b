// Data on a screen: read when it is shown, refreshed while it is visible.
import { useEffect, useRef, useState } from 'preact/hooks';
import { get } from './api';
import { onEvents } from './live';
import type { EventRecord } from './model';

/** Last answers by path, so that a screen that is shown again has data at once. */
const cache = new Map<string, unknown>();
const CACHED_MAX = 60;
/** Events that arrive within this time cause one refresh. */
const COALESCE_MS = 150;

function remember(path: string, data: unknown): void {
  cache.delete(path);
  cache.set(path, data);
  const oldest = cache.keys().next();
  if (cache.size > CACHED_MAX && !oldest.done) cache.delete(oldest.value);
}

/** Forgets all answers: they belong to another session. */
export function forgetAnswers(): void {
  cache.clear();
}

interface QueryOptions {
  /** Milliseconds between refreshes while the page is visible; 0: none. */
  every?: number;
  /** Whether events are a reason to refresh. */
  wake?: (events: EventRecord[]) => boolean;
}

interface QueryState<T> {
  path: string | null;
  data: T | null;
  error: Error | null;
  at: number;
}

export interface QueryResult<T> {
  data: T | null;
  error: Error | null;
  again: () => void;
}

/** The answer of a GET; what was shown stays when a refresh fails. */
export function useQuery<T>(
  path: string | null,
  { every = 0, wake }: QueryOptions = {},
): QueryResult<T> {
  const [state, set] = useState<QueryState<T>>({ path: null, data: null, error: null, at: 0 });
  const again = useRef<() => void>(() => {});
  const wakes = useRef(wake);
  wakes.current = wake;
  useEffect(() => {
    if (path === null) return undefined;
    const abort = new AbortController();
    let timer = 0;
    let soon = 0;
    let isRunning = false;
    set({ path, data: (cache.get(path) as T | undefined) ?? null, error: null, at: 0 });
    const read = async () => {
      if (isRunning || document.hidden) return;
      isRunning = true;
      clearTimeout(timer);
      try {
        const data = await get<T>(path, { signal: abort.signal });
        remember(path, data);
        set({ path, data, error: null, at: Date.now() });
      } catch (error) {
        if (abort.signal.aborted) return;
        set((old) => ({ ...old, error: error as Error }));
      }
      isRunning = false;
      if (every) timer = window.setTimeout(read, every);
    };
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
  const cached = path === null ? null : ((cache.get(path) as T | undefined) ?? null);
  return {
    data: fits ? state.data : cached,
    error: fits ? state.error : null,
    again: () => again.current(),
  };
}
