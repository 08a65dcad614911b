// Streamers as cells, grouped by a label, coloured by one number. More are read as one scrolls.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import * as f from '../format';
import type { Rows } from '../pages';
import { Given, Mark, shortHost } from '../parts';
import { href } from '../router';
import { CELLS_MAX, groupsOf, stageOf, type StreamerRow } from '../streamer_rows';
import { t, type TextKey } from '../text';

/** A number by which cells are coloured: its share of what is possible, and its text. */
interface CellMetric {
  word: TextKey;
  share: (row: StreamerRow) => number;
  text: (row: StreamerRow) => string;
}

export type Metric = 'assigned' | 'cpu' | 'out' | 'disk' | 'errors';

/** Streams in outage for the strongest colour. */
const ERRORS_SHOWN = 20;
const SHADES = 5;

export const METRICS: Record<Metric, CellMetric> = {
  assigned: {
    word: 'col.assigned',
    share: (row) => row.assigned / (row.limit || 1),
    text: (row) => f.count(row.assigned),
  },
  cpu: {
    word: 'col.cpu',
    share: (row) => (row.cpu ?? 0) / 100,
    text: (row) => f.percent(row.cpu),
  },
  out: {
    word: 'col.out',
    share: (row) => (row.bandwidth ? (row.out ?? 0) / row.bandwidth : 0),
    text: (row) => f.rate(row.out),
  },
  disk: {
    word: 'col.disk',
    share: (row) => (row.disk ?? 0) / 100,
    text: (row) => f.percent(row.disk),
  },
  errors: {
    word: 'status.outage',
    share: (row) => (row.errors ?? 0) / ERRORS_SHOWN,
    text: (row) => f.count(row.errors),
  },
};

function colour(row: StreamerRow, by: Metric): string {
  if (row.state !== 'up') return `state-${row.state}`;
  const share = Math.min(1, METRICS[by].share(row));
  const shade = share > 0 ? Math.min(SHADES, Math.floor(share * SHADES) + 1) : 0;
  return `c${shade}${by === 'errors' ? ' e' : ''}`;
}

function Cell({ row, by }: { row: StreamerRow; by: Metric }) {
  const title = [
    row.hostname,
    `${t(`state.${row.state}`)} · ${t(`status.${row.health}`)}`,
    ...(row.maintenance
      ? [`${t(`state.${stageOf(row.maintenance)}`)} ${row.maintenance.reason}`]
      : []),
    `${t('col.assigned')} ${f.count(row.assigned)} / ${f.count(row.limit)}`,
    `${t('col.cpu')} ${f.percent(row.cpu)}, ${t('col.disk')} ${f.percent(row.disk)}`,
    ...(row.errors === undefined ? [] : [t('streamers.in_outage', { n: row.errors })]),
  ];
  const isUp = row.state === 'up';
  return (
    <a
      class={`cell ${colour(row, by)}${row.maintenance ? ' cordoned' : ''}`}
      href={href('streamers', [row.hostname])}
      title={title.join('\n')}
      translate={false}
    >
      <b>{shortHost(row.hostname)}</b>
      <i>{isUp ? METRICS[by].text(row) : t(`state.${row.state}`)}</i>
      {row.maintenance && (
        <i>
          <Mark of={stageOf(row.maintenance)} /> {t(`state.${stageOf(row.maintenance)}`)}
        </i>
      )}
    </a>
  );
}

const sum = (rows: StreamerRow[], of: (row: StreamerRow) => number | undefined) =>
  rows.reduce((n, row) => n + (of(row) ?? 0), 0);

interface GroupProps {
  name: string;
  rows: StreamerRow[];
  by: Metric;
  /** All of the group were read. */
  isWhole: boolean;
}

function Group({ name, rows, by, isWhole }: GroupProps) {
  const totals = t('streamers.assigned', {
    n: sum(rows, (row) => row.assigned),
    limit: sum(rows, (row) => row.limit),
    out: f.rate(sum(rows, (row) => row.out)),
  });
  return (
    <section class="cells">
      <h2>
        {name ? <Given text={name} /> : t('streamers.title')}{' '}
        {isWhole && (
          <small>
            {f.count(rows.length)} · {totals}
          </small>
        )}
      </h2>
      <div class="grid">
        {rows.map((row) => (
          <Cell key={row.hostname} row={row} by={by} />
        ))}
      </div>
    </section>
  );
}

/** Cells above and below the view that are refreshed with it. */
const SPARE_CELLS = 20;
interface CellsProps {
  rows: Rows<StreamerRow>;
  group: string;
  by: Metric;
  empty: ComponentChildren;
  onVisible: (first: number, last: number) => void;
}

export function Cells({ rows, group, by, empty, onVisible }: CellsProps) {
  const box = useRef<HTMLDivElement>(null);
  const groups = groupsOf(rows, group);
  const drawn = groups.reduce((n, [, list]) => n + list.length, 0);
  const isAll = rows.total !== null && drawn >= rows.total;
  const measure = () => {
    const element = box.current;
    if (!element) return;
    const { scrollTop, scrollHeight, clientHeight } = element;
    const perPixel = drawn / Math.max(1, scrollHeight);
    const last = Math.ceil((scrollTop + clientHeight) * perPixel) + SPARE_CELLS;
    const first = Math.max(0, Math.floor(scrollTop * perPixel) - SPARE_CELLS);
    onVisible(first, Math.min(drawn, last));
    // All pages from the first one are kept: groups are not of one height.
    rows.near?.(0, Math.min(CELLS_MAX, last));
  };
  useEffect(measure, [rows.key, drawn]);
  return (
    <div
      class="scroll-y"
      ref={box}
      tabindex={0}
      role="region"
      aria-label={t('streamers.grid')}
      onScroll={measure}
    >
      {groups.map(([name, list], index) => (
        <Group
          key={name}
          name={name}
          rows={list}
          by={by}
          isWhole={isAll || index < groups.length - 1}
        />
      ))}
      {drawn === 0 && <div class="empty">{empty}</div>}
      {drawn >= CELLS_MAX && !isAll && (
        <p class="muted">{t('streamers.first_cells', { n: drawn })}</p>
      )}
    </div>
  );
}
