// All streamers: a table to sort, or a grid that shows many at once. The server searches, filters,
// sorts and pages; here are only the rows in view.
import { createContext } from 'preact';
import { useContext, useState } from 'preact/hooks';
import { OVERVIEW } from '../api';
import * as f from '../format';
import { url } from '../json';
import { Line } from '../line';
import type { ClusterSummary, HistoryTable, Session } from '../model';
import type { Rows } from '../pages';
import { Bar, Choice, Failure, Labels, Mark, StreamerLink, Tabs, Typed } from '../parts';
import { mayRead } from '../permitted';
import { useQuery } from '../query';
import { go, href, type ScreenProps } from '../router';
import { useStreamers } from '../streamer_pages';
import {
  stageOf,
  STATE_CODES,
  STATES,
  STREAMER_FILTERS,
  type StateFilter,
  type StreamerRow,
} from '../streamer_rows';
import { Table, type Column } from '../table';
import { code, t } from '../text';
import { FirstStreamer, NoMatch } from './empty';
import { Cells, METRICS, type Metric } from './streamer_grid';

function Standing({ row }: { row: StreamerRow }) {
  const isUp = row.state === 'up';
  const label = isUp ? t(`status.${row.health}`) : t(`state.${row.state}`);
  return (
    <>
      <Mark of={isUp ? row.health : row.state} label={label} />{' '}
      <StreamerLink hostname={row.hostname} />
      {!isUp && (
        <>
          {' '}
          <span class={`label state-${row.state}`}>{t(`state.${row.state}`)}</span>
        </>
      )}
      {row.maintenance && (
        <>
          {' '}
          <span class="label cordoned" title={row.maintenance.reason} translate={false}>
            <Mark of={stageOf(row.maintenance)} /> {t(`state.${stageOf(row.maintenance)}`)}
          </span>
        </>
      )}
    </>
  );
}

/** The CPU of the streamers in view. */
const CpuHistory = createContext<HistoryTable | null>(null);
/** Streamers whose lines are read together, so that scrolling causes few requests. */
const LINES_READ = 25;

function Cpu({ row }: { row: StreamerRow }) {
  const history = useContext(CpuHistory);
  return (
    <span class="gauge">
      <span class="with-line">
        <Line of={history} field={row.hostname} top={100} />
        {f.percent(row.cpu)}
      </span>
      <Bar part={row.cpu ?? 0} of={100} />
    </span>
  );
}

/** The CPU of the streamers in view, from the first to before the last. */
function useCpu(rows: Rows<StreamerRow>, [first, last]: [number, number]): HistoryTable | null {
  const from = Math.floor(first / LINES_READ) * LINES_READ;
  const to = Math.min(rows.length, Math.ceil(last / LINES_READ) * LINES_READ);
  const indices = Array.from({ length: Math.max(0, to - from) }, (_, n) => from + n);
  const hostname = indices.flatMap((index) => rows.row(index)?.hostname ?? []).join(',');
  const path = url('/streamers/histories', { points: 30, step: 60, hostname });
  return useQuery<HistoryTable>(hostname ? path : null, { every: 15_000 }).data;
}

/** The streams that the column of outages counts. */
const outagesOf = (hostname: string) =>
  href('streams', [], { streamer: hostname, health: 'outage' });

const quiet = 'num hide-m';

const COLUMNS: Column<StreamerRow>[] = [
  { id: 'name', head: t('col.streamer'), sort: 'hostname', cell: (row) => <Standing row={row} /> },
  {
    id: 'labels',
    head: t('col.labels'),
    class: 'hide-m',
    cell: (row) => <Labels labels={row.labels} most={2} />,
  },
  {
    id: 'assigned',
    head: t('col.assigned'),
    sort: 'assigned',
    down: true,
    cell: (row) => (
      <span class="gauge">
        <b>{f.count(row.assigned)}</b>
        <span class="muted"> / {f.count(row.limit)}</span>
        <Bar part={row.assigned} of={row.limit} warn={0.985} bad={2} />
      </span>
    ),
  },
  {
    id: 'cpu',
    head: t('col.cpu'),
    sort: 'cpu',
    down: true,
    class: 'num',
    cell: (row) => <Cpu row={row} />,
  },
  {
    id: 'mem',
    head: t('col.mem'),
    sort: 'mem',
    down: true,
    class: quiet,
    cell: (row) => f.percent(row.mem),
  },
  {
    id: 'out',
    head: t('col.out'),
    sort: 'out',
    down: true,
    class: 'num',
    cell: (row) => (
      <span class="gauge">
        {f.rate(row.out)}
        <Bar part={row.out ?? 0} of={row.bandwidth ?? 0} />
      </span>
    ),
  },
  {
    id: 'disk',
    head: t('col.disk'),
    class: quiet,
    cell: (row) => f.percent(row.disk),
  },
  {
    id: 'viewers',
    head: t('col.viewers'),
    sort: 'viewers',
    down: true,
    class: quiet,
    cell: (row) => f.count(row.viewers),
  },
  {
    id: 'errors',
    head: t('status.outage'),
    sort: 'errors',
    down: true,
    class: 'num',
    unit: t('col.in_outage'),
    cell: (row) =>
      row.errors ? (
        <a class="bad" href={outagesOf(row.hostname)}>
          {f.count(row.errors)}
        </a>
      ) : (
        <span class="muted">{f.count(row.errors)}</span>
      ),
  },
  {
    id: 'uptime',
    head: t('col.up'),
    sort: 'uptime',
    class: quiet,
    cell: (row) => f.duration(row.uptime),
  },
  {
    id: 'version',
    head: t('col.version'),
    sort: 'version',
    class: 'hide-m',
    cell: (row) => row.version ?? '–',
  },
];

/** How many streamers are in which state; `null` for a session that may not see all of them. */
function useStates(me: Session): ClusterSummary['streamers']['states'] | null {
  const seesAll = me.may.admin || me.scopes.includes('*');
  const path = seesAll && mayRead(me, 'cluster') ? OVERVIEW.summary : null;
  const { data } = useQuery<ClusterSummary>(path, { every: 5000 });
  if (path === null) return null;
  return data?.streamers.states ?? {};
}

interface BarProps {
  query: Record<string, string>;
  set: (change: Record<string, string>) => void;
  me: Session;
  /** The keys by which a grid can be grouped. */
  keys: string[];
  total: number | null;
}

function StateChips({ query, set, me }: Pick<BarProps, 'query' | 'set' | 'me'>) {
  const states = useStates(me);
  const countOf = (state: StateFilter) => states?.[STATE_CODES[state]] ?? 0;
  const shown = STATES.filter(
    (state) => states === null || countOf(state) > 0 || query.state === state,
  );
  return (
    <div class="chips">
      {shown.map((state) => (
        <button
          class="chip"
          key={state}
          aria-pressed={query.state === state}
          onClick={() => set({ state: query.state === state ? '' : state })}
        >
          <Mark of={state} />
          {t(`state.${state}`)} {states && <b>{f.count(countOf(state))}</b>}
        </button>
      ))}
      {query.health && (
        <button class="chip" aria-pressed={true} onClick={() => set({ health: '' })}>
          {code('status', query.health)} <span aria-hidden="true">✕</span>
          <span class="hidden">{t('filter.remove')}</span>
        </button>
      )}
    </div>
  );
}

/** What the grid shows of the streamers, and by which label they are grouped. */
function GridChoices({ keys, query, set }: Pick<BarProps, 'keys' | 'query' | 'set'>) {
  const metrics = Object.entries(METRICS).map(([key, it]): [string, string] => [key, t(it.word)]);
  return (
    <>
      <Choice
        label={t('streamers.group')}
        value={query.group}
        none={t('streamers.ungrouped')}
        areNames
        of={keys.map((key): [string, string] => [key, key])}
        onPick={(group) => set({ group })}
      />
      <Choice
        label={t('streamers.colour')}
        value={query.by}
        none={t(METRICS.assigned.word)}
        of={metrics.filter(([key]) => key !== 'assigned')}
        onPick={(by) => set({ by })}
      />
    </>
  );
}

function TopBar({ query, set, me, keys, total }: BarProps) {
  const views: [string, string][] = [
    ['table', t('streamers.table')],
    ['grid', t('streamers.grid')],
  ];
  const view = query.view || 'table';
  return (
    <div class="bar-top">
      <h1>
        {t('streamers.title')} <small>{f.count(total)}</small>
      </h1>
      <Typed
        label={t('streamers.filter')}
        value={query.q ?? ''}
        onType={(q) => set({ q })}
      />
      <Typed
        label={t('filter.label')}
        value={query.label ?? ''}
        onType={(label) => set({ label })}
      />
      <StateChips query={query} set={set} me={me} />
      <span class="grow" />
      {view === 'grid' && <GridChoices keys={keys} query={query} set={set} />}
      <Tabs
        label={t('streamers.view')}
        of={views}
        value={view}
        onPick={(next) => set({ view: next })}
      />
    </div>
  );
}

/** The keys of the labels of the rows that were read, and the one that is chosen. */
function keysOf(rows: Rows<StreamerRow>, chosen?: string): string[] {
  const keys = new Set(chosen ? [chosen] : []);
  for (let index = 0; index < rows.length; index += 1) {
    for (const key of Object.keys(rows.row(index)?.labels ?? {})) keys.add(key);
  }
  return [...keys].sort();
}

export function Streamers({ route: { query }, me }: ScreenProps) {
  const { pages, rows, seen, isPointed } = useStreamers(query);
  const set = (change: Record<string, string>) =>
    go(href('streamers', [], { ...query, ...change }), { replace: true });
  const [inView, setInView] = useState<[number, number]>([0, 0]);
  const isGrid = query.view === 'grid';
  const cpu = useCpu(rows, isGrid ? [0, 0] : inView);
  const by = (query.by && query.by in METRICS ? query.by : 'assigned') as Metric;
  const isFiltered = STREAMER_FILTERS.some((name) => query[name]);
  const { view, group, by: colour } = query;
  const empty = isFiltered ? (
    <NoMatch screen="streamers" to={{ view, group, by: colour }}>
      {t('streamers.empty')}
    </NoMatch>
  ) : (
    <FirstStreamer />
  );
  const isBusy = pages.isLoading && pages.length === 0;
  const keys = isGrid ? keysOf(rows, query.group) : [];
  const onVisible = (first: number, last: number) => {
    seen.current = [first, last];
    // The grid has no lines.
    if (!isGrid) setInView([first, last]);
  };
  return (
    <>
      <TopBar query={query} set={set} me={me} keys={keys} total={pages.total} />
      <Failure error={pages.error} again={pages.again} />
      <div
        class="fill"
        onPointerEnter={() => (isPointed.current = true)}
        onPointerLeave={() => (isPointed.current = false)}
      >
        {isGrid ? (
          <Cells
            rows={rows}
            group={query.group ?? ''}
            by={by}
            empty={isBusy ? t('loading') : empty}
            onVisible={onVisible}
          />
        ) : (
          <CpuHistory.Provider value={cpu}>
            <Table
              kind="streamers"
              label={t('streamers.title')}
              columns={COLUMNS}
              source={rows}
              keyOf={(row) => row.hostname}
              onOpen={(row) => go(href('streamers', [row.hostname]))}
              sort={query.sort ?? ''}
              onSort={(sort) => set({ sort })}
              isBusy={isBusy}
              empty={empty}
              height={40}
              narrowHeight={64}
              onVisible={onVisible}
            />
          </CpuHistory.Provider>
        )}
      </div>
    </>
  );
}
