// Rows that are shown stay current: those in view by the clock, all after a change of their list.
import { useEffect, useRef } from 'preact/hooks';
import { get } from './api';
import { url } from './json';
import { onEvents } from './live';
import type { EventRecord, Page } from './model';
import { oneAtATime } from './one_at_a_time';
import type { PagedRows } from './pages';

const REFRESH_MS = 5000;
/** Rows that are read by one request, and at a time. */
const NAMES_MAX = 80;
const ROWS_MAX = 240;
/** Events that arrive within this time cause one refresh. */
const COALESCE_MS = 150;

export interface RowsInView<Name extends string> {
  path: string;
  collection: Name;
  /** The member that names a row, which is also the filter by names. */
  by: string;
  /** The members that change by themselves. */
  select: string;
  isAbout: (event: EventRecord) => boolean;
}

/** The members of a selection without values: an answer leaves out what is unknown by now. */
function unknownOf(select: string): Record<string, undefined> {
  const members = select.split(',').map((path) => path.split('.')[0] ?? path);
  return Object.fromEntries(members.map((member) => [member, undefined]));
}

/** Refreshes the rows in view by their names: no row moves, whatever the filter costs. */
export function useFreshRows<Name extends string, Row extends object>(
  pages: PagedRows<Row>,
  of: RowsInView<Name>,
) {
  const { path, collection, by, select, isAbout } = of;
  const seen = useRef<[number, number]>([0, 0]);
  const isPointed = useRef(false);
  const current = useRef(pages);
  current.current = pages;
  useEffect(() => {
    const abort = new AbortController();
    const keyOf = (row: Row) => String((row as Record<string, unknown>)[by]);
    const unknown = unknownOf(select);
    const read = async (names: string[]) => {
      const query = { [by]: names.join(','), limit: names.length, select };
      const page = await get<Page<Name, Row>>(url(path, query), { signal: abort.signal });
      const rows: Row[] = page[collection];
      const fresh = rows.map((row): [string, Row] => [keyOf(row), { ...unknown, ...row }]);
      current.current.patch(keyOf, new Map(fresh));
    };
    const refresh = oneAtATime(async () => {
      if (document.hidden || isPointed.current || abort.signal.aborted) return;
      const [first, last] = seen.current;
      const indices = Array.from({ length: Math.max(0, last - first) }, (_, n) => first + n);
      const rows = indices.map((index) => current.current.row(index));
      const names = rows.flatMap((row) => (row ? [keyOf(row)] : [])).slice(0, ROWS_MAX);
      try {
        for (let at = 0; at < names.length; at += NAMES_MAX) {
          await read(names.slice(at, at + NAMES_MAX));
        }
      } catch {
        // The rows stay as they are until the next time.
      }
    });
    const timer = setInterval(() => void refresh(), REFRESH_MS);
    const off = onEvents((events) => {
      if (events.some(isAbout)) void refresh();
    });
    return () => {
      clearInterval(timer);
      abort.abort();
      off();
    };
  }, [pages.key]);
  return { seen, isPointed };
}

/** Reads a list again after events about it, while the page is visible. */
export function useRefresh<Row>(
  pages: PagedRows<Row>,
  isAbout: (event: EventRecord) => boolean,
): void {
  const current = useRef(pages);
  current.current = pages;
  useEffect(() => {
    let soon = 0;
    let isStale = false;
    const refresh = oneAtATime(async () => {
      soon = 0;
      isStale = document.hidden;
      if (!isStale) await current.current.refresh();
    });
    const shown = () => {
      if (isStale && !document.hidden) void refresh();
    };
    document.addEventListener('visibilitychange', shown);
    const off = onEvents((events) => {
      if (events.some(isAbout) && soon === 0) {
        soon = window.setTimeout(() => void refresh(), COALESCE_MS);
      }
    });
    return () => {
      clearTimeout(soon);
      document.removeEventListener('visibilitychange', shown);
      off();
    };
  }, [isAbout]);
}
