// A long table that draws only the rows in view. All rows have one height; what is below the last
// page that was read is not drawn, because cursors have no offsets: searching leads there.
import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Rows } from './pages';
import { t } from './text';

const NARROW = '(max-width: 760px)';
const HEAD_PX = 34;
/** Rows drawn above and below the view. */
const SPARE_ROWS = 6;

/** Whether the page is narrow: rows have two lines there. */
export function useNarrow(): boolean {
  const [is, set] = useState(() => matchMedia(NARROW).matches);
  useEffect(() => {
    const media = matchMedia(NARROW);
    const changed = () => set(media.matches);
    media.addEventListener('change', changed);
    return () => media.removeEventListener('change', changed);
  }, []);
  return is;
}

export interface Column<Row> {
  id: string;
  head: string;
  cell: (row: Row) => ComponentChildren;
  class?: string;
  /** What the number is, on narrow pages, where the head is hidden. */
  unit?: string;
  /** The value of `sort` for this column. */
  sort?: string;
  /** The first click sorts from the largest. */
  down?: boolean;
}

/** Names the widths of columns in the style sheet. */
export type TableKind =
  'streams' | 'streamers' | 'on-streamer' | 'agents' | 'tokens' | 'auth' | 'balancers';

export interface TableProps<Row> {
  kind: TableKind;
  label: string;
  columns: Column<Row>[];
  source: Rows<Row>;
  keyOf: (row: Row) => string;
  onOpen: (row: Row) => void;
  empty: ComponentChildren;
  isBusy: boolean;
  height?: number;
  narrowHeight?: number;
  selected?: ReadonlySet<string>;
  onSelect?: (row: Row, index: number, isRange: boolean) => void;
  sort: string;
  onSort: (sort: string) => void;
  onVisible?: (first: number, last: number) => void;
}

function SortButton<Row>({ column, sort, onSort }: { column: Column<Row> } & Sorting) {
  const key = column.sort ?? '';
  const first = column.down ? `-${key}` : key;
  const next = sort === key ? `-${key}` : sort === `-${key}` ? '' : first;
  const arrow = sort === key ? '▲' : sort === `-${key}` ? '▼' : '';
  return (
    <button class="sort" onClick={() => onSort(next)}>
      {column.head}
      <i aria-hidden="true">{arrow}</i>
    </button>
  );
}

type Sorting = { sort: string; onSort: (sort: string) => void };

function sortedBy<Row>(column: Column<Row>, sort: string): 'ascending' | 'descending' | undefined {
  if (!column.sort || sort.replace('-', '') !== column.sort) return undefined;
  return sort.startsWith('-') ? 'descending' : 'ascending';
}

function Head<Row>(props: { columns: Column<Row>[]; hasPicks: boolean } & Sorting) {
  const { columns, hasPicks, sort, onSort } = props;
  return (
    <div class="thead" role="rowgroup">
      <div class="tr" role="row" aria-rowindex={1}>
        {hasPicks && (
          <span class="td pick" role="columnheader">
            <span class="hidden">{t('col.selected')}</span>
          </span>
        )}
        {columns.map((column) => (
          <span
            class={`td ${column.class ?? ''}`}
            role="columnheader"
            data-col={column.id}
            key={column.id}
            aria-sort={sortedBy(column, sort)}
          >
            {column.sort ? <SortButton column={column} sort={sort} onSort={onSort} /> : column.head}
          </span>
        ))}
      </div>
    </div>
  );
}

interface RowProps<Row> {
  table: TableProps<Row>;
  row: Row | undefined;
  index: number;
  isAt: boolean;
  height: number;
  onAt: (index: number) => void;
}

function TableRow<Row>({ table, row, index, isAt, height, onAt }: RowProps<Row>) {
  const style = { transform: `translateY(${index * height}px)`, height: `${height}px` };
  if (row === undefined) {
    return (
      <div class="tr ghost" style={style} role="row">
        <span role="cell">…</span>
      </div>
    );
  }
  const id = table.keyOf(row);
  const isPicked = table.selected?.has(id) ?? false;
  const open = (event: MouseEvent) => {
    const isControl =
      event.target instanceof Element && event.target.closest('a,button,input,label');
    if (isControl) return;
    onAt(index);
    if (getSelection()?.isCollapsed ?? true) table.onOpen(row);
  };
  const pick = (event: MouseEvent) => table.onSelect?.(row, index, event.shiftKey);
  return (
    <div
      class={`tr${isAt ? ' at' : ''}${isPicked ? ' picked' : ''}`}
      style={style}
      role="row"
      aria-rowindex={index + 2}
      onClick={open}
    >
      {table.selected && (
        <span class="td pick" role="cell">
          <input
            type="checkbox"
            checked={isPicked}
            aria-label={t('streams.select', { name: id })}
            onClick={pick}
          />
        </span>
      )}
      {table.columns.map((column) => (
        <span
          class={`td ${column.class ?? ''}`}
          role="cell"
          data-col={column.id}
          data-unit={column.unit}
          key={column.id}
        >
          {column.cell(row)}
        </span>
      ))}
    </div>
  );
}

/** How far a key moves the current row. */
function stepOf(key: string, page: number): number {
  const steps: Record<string, number> = {
    ArrowDown: 1,
    j: 1,
    ArrowUp: -1,
    k: -1,
    PageDown: page,
    PageUp: -page,
    Home: -Infinity,
    End: Infinity,
  };
  return steps[key] ?? 0;
}

export function Table<Row>(table: TableProps<Row>) {
  const { source, kind, label, empty, isBusy, onVisible } = table;
  const tall = table.height ?? 36;
  const height = useNarrow() ? (table.narrowHeight ?? tall) : tall;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [at, setAt] = useState(-1);
  const measure = () => {
    const element = box.current;
    if (element) setView({ top: element.scrollTop, height: element.clientHeight });
  };
  useLayoutEffect(() => {
    measure();
    const observer = new ResizeObserver(measure);
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (box.current) box.current.scrollTop = 0;
    setAt(-1);
    measure();
  }, [source.key]);
  const first = Math.max(0, Math.floor(view.top / height) - SPARE_ROWS);
  const below = Math.ceil((view.top + view.height) / height) + SPARE_ROWS;
  const last = Math.min(source.length, below);
  useEffect(() => {
    source.near?.(first, last);
    onVisible?.(first, last);
  }, [first, last, source.length, source.key]);
  const keys = keyHandler(table, { box, at, height, setAt });
  const indices = Array.from({ length: Math.max(0, last - first) }, (_, n) => first + n);
  return (
    <div
      class={`table t-${kind}${table.selected ? ' picks' : ''}`}
      ref={box}
      tabindex={0}
      role="table"
      aria-label={label}
      aria-rowcount={(source.total ?? source.length) + 1}
      aria-busy={isBusy}
      onScroll={measure}
      onKeyDown={keys}
    >
      <Head
        columns={table.columns}
        hasPicks={table.selected !== undefined}
        sort={table.sort}
        onSort={table.onSort}
      />
      <div class="tbody" role="rowgroup" style={{ height: `${source.length * height}px` }}>
        {indices.map((index) => {
          const row = source.row(index);
          const key = row === undefined ? `ghost ${index}` : table.keyOf(row);
          const rest = { table, row, index, height, onAt: setAt, isAt: index === at };
          return <TableRow key={key} {...rest} />;
        })}
      </div>
      {source.length === 0 && !isBusy && (
        <div class="empty" role="row">
          <div role="cell">{empty}</div>
        </div>
      )}
    </div>
  );
}

interface Keyboard {
  box: { current: HTMLDivElement | null };
  at: number;
  height: number;
  setAt: (at: number) => void;
}

function keyHandler<Row>(table: TableProps<Row>, { box, at, height, setAt }: Keyboard) {
  const { source } = table;
  const show = (index: number) => {
    const element = box.current;
    if (!element) return;
    const y = index * height;
    const room = element.clientHeight - HEAD_PX;
    if (y < element.scrollTop) element.scrollTop = y;
    else if (y + height > element.scrollTop + room) element.scrollTop = y + height - room;
  };
  return (event: KeyboardEvent) => {
    if (event.target !== box.current || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor((box.current?.clientHeight ?? 0) / height) - 2);
    const step = stepOf(event.key, page);
    const row = source.row(at);
    if (step !== 0) {
      const to = Math.max(0, Math.min(source.length - 1, at + step));
      setAt(to);
      show(to);
    } else if (event.key === 'Enter' && row !== undefined) {
      table.onOpen(row);
    } else if ((event.key === ' ' || event.key === 'x') && row !== undefined && table.onSelect) {
      table.onSelect(row, at, event.shiftKey);
    } else {
      return;
    }
    event.preventDefault();
  };
}
