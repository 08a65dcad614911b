// All streamers: a table to sort, or a grid that shows the whole at once.
import { createContext } from 'preact';
import { useContext, useMemo, useState } from 'preact/hooks';
import * as f from '../format';
import { url } from '../json';
import { Line } from '../line';
import type { HistoryTable } from '../model';
import { rowsOf } from '../pages';
import { Bar, Choice, Failure, Labels, Mark, StreamerLink, Tabs } from '../parts';
import { useQuery } from '../query';
import { go, href, type ScreenProps } from '../router';
import { filtered, isIn, stageOf, type StateFilter, type StreamerRow } from '../streamer_rows';
import { useStreamers } from '../streamers';
import { Table, type Column } from '../table';
import { code, t } from '../text';
import { Cells, METRICS, type Metric } from './streamer_grid';

const STATES: StateFilter[] = ['up', 'held', 'unknown', 'offline', 'cordoned'];

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

/** The CPU of those of the shown streamers that are in view, from the first to before the last. */
function useCpu(shown: StreamerRow[], [first, last]: [number, number]): HistoryTable | null {
  const part = shown.slice(
    Math.floor(first / LINES_READ) * LINES_READ,
    Math.ceil(last / LINES_READ) * LINES_READ,
  );
  const hostname = part.map((row) => row.hostname).join(',');
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
    sort: 'disk',
    down: true,
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

interface BarProps {
  rows: StreamerRow[];
  shown: number;
  query: Record<string, string>;
  set: (change: Record<string, string>) => void;
}

function StateChips({ rows, query, set }: Omit<BarProps, 'shown'>) {
  const counts = STATES.map((state): [StateFilter, number] => [
    state,
    rows.filter((row) => isIn(row, state)).length,
  ]);
  return (
    <div class="chips">
      {counts
        .filter(([, n]) => n > 0)
        .map(([state, n]) => (
          <button
            class="chip"
            aria-pressed={query.state === state}
            onClick={() => set({ state: query.state === state ? '' : state })}
          >
            <Mark of={state} />
            {t(`state.${state}`)} <b>{f.count(n)}</b>
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

function TopBar({ rows, shown, query, set }: BarProps) {
  const keys = useMemo(
    () => [...new Set(rows.flatMap((it) => Object.keys(it.labels)))].sort(),
    [rows],
  );
  const views: [string, string][] = [
    ['table', t('streamers.table')],
    ['grid', t('streamers.grid')],
  ];
  const metrics = Object.entries(METRICS).map(([key, it]): [string, string] => [key, t(it.word)]);
  const view = query.view || 'table';
  return (
    <div class="bar-top">
      <h1>
        {t('streamers.title')} <small>{f.count(shown)}</small>
      </h1>
      <input
        type="search"
        class="filter"
        placeholder={t('streamers.filter')}
        aria-label={t('streamers.filter')}
        value={query.q ?? ''}
        onInput={(event) => set({ q: event.currentTarget.value })}
      />
      <StateChips rows={rows} query={query} set={set} />
      <span class="grow" />
      {view === 'grid' && (
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
      )}
      <Tabs
        label={t('streamers.view')}
        of={views}
        value={view}
        onPick={(next) => set({ view: next })}
      />
    </div>
  );
}

function FirstStreamer() {
  return (
    <>
      <p>{t('streamers.first')}</p>
      <pre class="json">{'PUT /streamers/HOSTNAME {"role":"streamer","cluster_key":"..."}'}</pre>
    </>
  );
}

export function Streamers({ route: { query } }: ScreenProps) {
  const { rows, error, again, isReady } = useStreamers();
  const set = (change: Record<string, string>) =>
    go(href('streamers', [], { ...query, ...change }), { replace: true });
  const shown = useMemo(() => filtered(rows, query), [rows, query]);
  const key = `${query.q}|${query.sort}|${query.state}|${query.health}`;
  const [inView, setInView] = useState<[number, number]>([0, 0]);
  const isGrid = query.view === 'grid';
  const cpu = useCpu(shown, isGrid ? [0, 0] : inView);
  const by = (query.by && query.by in METRICS ? query.by : 'assigned') as Metric;
  return (
    <>
      <TopBar rows={rows} shown={shown.length} query={query} set={set} />
      <Failure error={error} again={again} />
      {isGrid ? (
        <Cells rows={shown} group={query.group ?? ''} by={by} />
      ) : (
        <CpuHistory.Provider value={cpu}>
          <Table
            kind="streamers"
            label={t('streamers.title')}
            columns={COLUMNS}
            source={rowsOf(shown, key)}
            keyOf={(row) => row.hostname}
            onOpen={(row) => go(href('streamers', [row.hostname]))}
            sort={query.sort ?? ''}
            onSort={(sort) => set({ sort })}
            isBusy={!isReady}
            empty={rows.length ? t('streamers.empty') : <FirstStreamer />}
            height={40}
            narrowHeight={64}
            onVisible={(from, to) => setInView([from, to])}
          />
        </CpuHistory.Provider>
      )}
    </>
  );
}
