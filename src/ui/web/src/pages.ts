// Pages of a long list by cursor. Pages far from the view are dropped and read again by the cursor
// they began with, so memory is bounded at any length of the list.
import { useEffect, useRef, useState } from 'preact/hooks';
import { forgetAge, keepAge } from './ages';
import { ApiError, get } from './api';
import { url } from './json';
import { onLiveState } from './live';
import type { Page } from './model';

export const PAGE_ROWS = 100;
const KEPT_PAGES = 30;
/** Rows below the view that are read ahead. */
const AHEAD_ROWS = 40;

/** Rows for a table. */
export interface Rows<Row> {
  /** Changes with the query: the table begins again. */
  key: string;
  length: number;
  total: number | null;
  row: (index: number) => Row | undefined;
  /** These rows are about to be shown. */
  near?: (first: number, last: number) => void;
}

export interface PagedRows<Row> extends Rows<Row> {
  error: Error | null;
  isLoading: boolean;
  again: () => void;
  /** Reads what was read once more and replaces it at once; what is shown stays until then. */
  refresh: () => Promise<void>;
  /** Replaces members of rows that are held; no row moves. */
  patch: (keyOf: (row: Row) => string, fresh: Map<string, Partial<Row>>) => void;
}

interface OnePage<Row> {
  cursor: string;
  rows?: Row[];
  /** Rows that it had before they were dropped. */
  size?: number;
  isRequested?: boolean;
}

interface Store<Row> {
  key: string;
  pages: OnePage<Row>[];
  total: number | null;
  error: Error | null;
  loading: number;
  /** When the last page came; 0: none has. */
  at: number;
  abort: AbortController;
}

const emptyStore = <Row>(key: string): Store<Row> => ({
  key,
  pages: [{ cursor: '' }],
  total: null,
  error: null,
  loading: 0,
  at: 0,
  abort: new AbortController(),
});

/** Reads a page into the store, unless it is there. Returns whether anything changed. */
async function load<Name extends string, Row>(
  store: Store<Row>,
  index: number,
  path: string,
  query: Record<string, unknown>,
  collection: Name,
): Promise<boolean> {
  const page = store.pages[index];
  if (!page || page.rows || page.isRequested || store.abort.signal.aborted) return false;
  page.isRequested = true;
  store.loading += 1;
  try {
    const address = url(path, { ...query, limit: PAGE_ROWS, cursor: page.cursor });
    const data = await get<Page<Name, Row>>(address, { signal: store.abort.signal });
    page.rows = data[collection];
    store.total = data.estimated_count;
    store.error = null;
    store.at = Date.now();
    const isLast = store.pages.length === index + 1;
    if (data.next && isLast) store.pages.push({ cursor: data.next });
  } catch (error) {
    if (!store.abort.signal.aborted) store.error = error as Error;
  }
  page.isRequested = false;
  store.loading -= 1;
  return true;
}

/** The pages that a store has had, read once more into another one, as far as there are as many. */
async function loadAgain<Name extends string, Row>(
  old: Store<Row>,
  ...[path, query, collection]: [string, Record<string, unknown>, Name]
): Promise<Store<Row>> {
  const fresh = { ...emptyStore<Row>(old.key), abort: old.abort };
  const had = old.pages.filter((page) => page.rows || page.size).length;
  for (let index = 0; index < Math.max(1, had) && fresh.pages[index]; index += 1) {
    await load(fresh, index, path, query, collection);
    if (fresh.error) break;
  }
  return fresh;
}

function dropFar<Row>(store: Store<Row>, from: number): void {
  store.pages.forEach((page, index) => {
    if (!page.rows || Math.abs(index - from) <= KEPT_PAGES / 2) return;
    page.size = page.rows.length;
    page.rows = undefined;
  });
}

/** The pages of a list. Another query, which has no cursor and no limit, begins again. */
export function usePages<Name extends string, Row>(
  path: string,
  query: Record<string, unknown>,
  collection: Name,
): PagedRows<Row> {
  const key = url(path, query);
  const held = useRef<Store<Row> | null>(null);
  const [, draw] = useState(0);
  const redraw = () => draw((n) => n + 1);
  if (held.current?.key !== key) {
    held.current?.abort.abort();
    held.current = emptyStore<Row>(key);
  }
  const store = held.current;
  const read = async (of: Store<Row>, index: number) => {
    const isChanged = await load(of, index, path, query, collection);
    if (isChanged && held.current === of) redraw();
  };
  useEffect(() => {
    void read(store, 0);
    redraw();
  }, [store]);
  useEffect(() => () => held.current?.abort.abort(), []);
  useEffect(() => {
    if (store.at) keepAge(held, store.at, true);
    return () => forgetAge(held);
  }, [store.at]);
  const refresh = async () => {
    // So far down the list, changes are shown when it begins again.
    if (store.pages.length > KEPT_PAGES) return;
    const fresh = await loadAgain<Name, Row>(store, path, query, collection);
    if (held.current !== store || store.abort.signal.aborted) return;
    if (fresh.error) store.error = fresh.error;
    else held.current = fresh;
    redraw();
  };
  const current = useRef(refresh);
  current.current = refresh;
  useEffect(
    () =>
      onLiveState((live) => {
        const error = held.current?.error;
        const isUnanswered = error && !(error instanceof ApiError);
        if (live === 'live' && isUnanswered) void current.current();
      }),
    [],
  );
  return {
    key,
    total: store.total,
    error: store.error,
    isLoading: store.loading > 0,
    length: store.pages.reduce((n, page) => n + (page.rows?.length ?? page.size ?? 0), 0),
    row: (index) => store.pages[Math.floor(index / PAGE_ROWS)]?.rows?.[index % PAGE_ROWS],
    near: (first, last) => {
      const from = Math.max(0, Math.floor(first / PAGE_ROWS));
      const to = Math.min(Math.floor((last + AHEAD_ROWS) / PAGE_ROWS), store.pages.length - 1);
      for (let index = from; index <= to; index += 1) void read(store, index);
      dropFar(store, from);
    },
    patch: (keyOf, fresh) => {
      for (const page of store.pages) {
        page.rows = page.rows?.map((row) => ({ ...row, ...fresh.get(keyOf(row)) }));
      }
      redraw();
    },
    refresh,
    again: () => {
      store.abort.abort();
      held.current = emptyStore<Row>(key);
      redraw();
    },
  };
}

export const rowsOf = <Row>(rows: Row[], key: string): Rows<Row> => ({
  key,
  length: rows.length,
  total: rows.length,
  row: (index) => rows[index],
});
