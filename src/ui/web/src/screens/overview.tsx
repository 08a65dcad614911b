// The landing page: whether the cluster is well, what needs attention, how much room is left.
import { isLayouterOff, OVERVIEW } from '../api';
import { folded } from '../folding';
import * as f from '../format';
import {
  HEALTHS,
  type Capacity,
  type CapacityClass,
  type ClusterStats,
  type Counts,
  type EventRecord,
  type LayouterPause,
  type LayouterStatus,
  type Page,
  type StreamEntity,
} from '../model';
import { Bar, Failure, Labels, Mark, Panel, shortHost, Stack, Tile, type MarkOf } from '../parts';
import { mayRead } from '../permitted';
import { useQuery } from '../query';
import { href, type ScreenProps } from '../router';
import { t } from '../text';
import { EventLines } from './event_line';

const SHOWN_CLASSES = 12;
const SHOWN_EVENTS = 8;
const SHOWN_HOSTS = 3;

interface Cluster {
  stats: ClusterStats;
  capacity: Capacity | null;
  unplaced: number;
  /** The layouter is off: there is no capacity. */
  isOff: boolean;
  pause: LayouterPause | null;
}

function CountTile({ title, counts, to }: { title: string; counts: Counts; to: string }) {
  const worse = HEALTHS.filter((health) => health !== 'operational' && counts[health] > 0);
  const note = worse.map((health) => (
    <span class="count">
      <Mark of={health} />
      {f.short(counts[health])} {t(`status.${health}`).toLowerCase()}
    </span>
  ));
  const parts = HEALTHS.map((of) => ({ of, n: counts[of] }));
  return (
    <Tile title={title} value={f.count(counts.total)} to={to} note={note}>
      <Stack total={counts.total} parts={parts} />
    </Tile>
  );
}

/** The class of streams without requirements: how much room there is in general. */
const plain = (capacity: Capacity | null): CapacityClass | undefined =>
  capacity?.classes.find((it) => Object.keys(it.labels).length === 0 && !it.transcoder);

function Tiles({ cluster: { stats, capacity, unplaced } }: { cluster: Cluster }) {
  const room = plain(capacity);
  const streams = stats.stream_metrics_total;
  const placed = streams.total - streams.disabled - unplaced;
  const traffic = stats.streamer_bitrate_metrics_total;
  const first = room?.bottleneck && `${t('cap.first')}: ${t(`bottleneck.${room.bottleneck}`)}`;
  return (
    <div class="tiles">
      <CountTile title={t('tile.streams')} counts={streams} to={href('streams')} />
      <CountTile
        title={t('tile.streamers')}
        counts={stats.streamer_metrics_total}
        to={href('streamers')}
      />
      <Tile
        title={t('tile.room')}
        value={room ? `+${f.count(room.streams_more)}` : '–'}
        note={first}
      >
        {room && <Bar part={placed} of={placed + room.streams_more} warn={0.9} />}
      </Tile>
      <Tile title={t('tile.ingest')} value={f.rate(traffic.input_kbit ?? 0)} />
      <Tile title={t('tile.delivery')} value={f.rate(traffic.output_kbit ?? 0)} />
    </div>
  );
}

function Headline({ cluster: { stats, unplaced, isOff } }: { cluster: Cluster }) {
  const streams = stats.stream_metrics_total;
  const lost = stats.streamer_metrics_total.outage;
  const placed = streams.total - streams.disabled - unplaced;
  const of: MarkOf = unplaced || lost ? 'outage' : streams.outage ? 'degradated' : 'operational';
  const what = unplaced ? t('head.unplaced', { n: unplaced }) : t('head.placed', { n: placed });
  return (
    <div class={`headline ${of}`}>
      <Mark of={of} />
      <h1>
        {what}
        {lost > 0 && `, ${t('head.outage', { n: lost })}`}
      </h1>
      <span class="muted">
        {t('head.at', { at: f.clock(stats.collected_at) })}
        {isOff && (
          <>
            {' '}
            · <b>{t('head.layouter_off')}</b>
          </>
        )}
      </span>
    </div>
  );
}

interface NeedLine {
  of: MarkOf;
  text: string;
  to?: string;
  /** Where a streamer leads. */
  hostTo?: (hostname: string) => string;
  hosts: { hostname: string; n: number }[];
}

/** What needs attention, the worst first: trouble of one kind is one line. */
function needs({ stats, capacity, unplaced, isOff, pause }: Cluster): NeedLine[] {
  const rows = stats.streamer_metrics;
  const outage = rows.filter((row) => row.status === 'outage');
  const failing = rows
    .filter((row) => row.status !== 'outage' && (row.stream_metrics.outage ?? 0) > 0)
    .sort((a, b) => (b.stream_metrics.outage ?? 0) - (a.stream_metrics.outage ?? 0));
  const losses = (capacity?.losses ?? [])
    .filter((loss) => !loss.survives)
    .sort((a, b) => b.unplaced - a.unplaced);
  const hostsOf = (list: typeof rows) =>
    list.map((row) => ({ hostname: row.hostname, n: row.stream_metrics.outage ?? 0 }));
  const lines: (NeedLine | false | null)[] = [
    unplaced > 0 && {
      of: 'outage',
      text: t('need.unplaced', { n: unplaced }),
      to: href('streams', [], { placed: 'no', enabled: 'yes' }),
      hosts: [],
    },
    outage.length > 0 && {
      of: 'outage',
      text: t('need.outage', { n: outage.length }),
      to: href('streamers', [], { health: 'outage' }),
      hosts: hostsOf(outage),
    },
    isOff && { of: 'degradated', text: t('need.layouter_off'), hosts: [] },
    pause && {
      of: 'degradated',
      text: t(`paused.${pause.what}`),
      to: href('layouter'),
      hosts: [],
    },
    failing.length > 0 && {
      of: 'degradated',
      text: t('need.streams', { n: failing.length }),
      to: href('streamers', [], { sort: '-errors' }),
      hosts: hostsOf(failing),
    },
    losses.length > 0 && {
      of: 'degradated',
      text: t('need.loss', { n: losses.length }),
      hostTo: (hosts) => href('whatif', [], { kind: 'lose', hosts }),
      hosts: losses.map((loss) => ({ hostname: loss.hostname, n: loss.unplaced })),
    },
  ];
  return lines.filter((line) => !!line);
}

const toStreamer = (hostname: string) => href('streamers', [hostname]);

function Need({ line: { of, text, to, hosts, hostTo = toStreamer } }: { line: NeedLine }) {
  return (
    <li>
      <Mark of={of} />
      {to ? <a href={to}>{text}</a> : <span>{text}</span>}
      <span class="some">
        {hosts.slice(0, SHOWN_HOSTS).map(({ hostname, n }) => (
          <a class="chip" href={hostTo(hostname)}>
            {shortHost(hostname)} {n > 0 && <b>{f.short(n)}</b>}
          </a>
        ))}
        {hosts.length > SHOWN_HOSTS && <span class="muted">+{hosts.length - SHOWN_HOSTS}</span>}
      </span>
    </li>
  );
}

function NeedsPanel({ cluster }: { cluster: Cluster }) {
  const lines = needs(cluster);
  return (
    <Panel title={t('need.title')} kind="needs">
      {lines.length > 0 ? (
        <ul class="lines">
          {lines.map((line) => (
            <Need line={line} />
          ))}
        </ul>
      ) : (
        <p class="empty">
          <Mark of="operational" /> {t('need.fine')}
        </p>
      )}
    </Panel>
  );
}

// Classes that no streamer fits first, then those without room, then by their streams.
const rank = (it: CapacityClass) => (it.nodes === 0 ? 0 : it.streams_more === 0 ? 1 : 2);
const worstFirst = (a: CapacityClass, b: CapacityClass) =>
  rank(a) - rank(b) || b.streams - a.streams;

function ClassRow({ of }: { of: CapacityClass }) {
  const isPlain = Object.keys(of.labels).length === 0;
  return (
    <tr>
      <td>
        {isPlain ? <span class="muted">{t('cap.none')}</span> : <Labels labels={of.labels} />}
      </td>
      <td class="num">{f.count(of.streams)}</td>
      <td class="num">{f.count(of.nodes)}</td>
      <td class="num">{f.count(of.streams_more)}</td>
      <td class="wide">
        <Bar part={of.streams} of={of.streams + of.streams_more} warn={0.9} bad={0.999} />
      </td>
      <td class={of.nodes ? '' : 'bad'}>
        {of.bottleneck ? t(`bottleneck.${of.bottleneck}`) : '–'}
      </td>
    </tr>
  );
}

function CapacityPanel({ capacity }: { capacity: Capacity }) {
  const survives = capacity.survives_any_loss;
  const aside = (
    <>
      <Mark of={survives ? 'operational' : 'degradated'} />{' '}
      {survives ? t('cap.survives') : t('cap.not')}
    </>
  );
  return (
    <Panel title={t('cap.title')} aside={aside}>
      <div class="scroll" tabindex={0} role="region" aria-label={t('cap.title')}>
        <table class="plain">
          <thead>
            <tr>
              <th>{t('cap.class')}</th>
              <th class="num">{t('cap.streams')}</th>
              <th class="num">{t('cap.nodes')}</th>
              <th class="num">{t('cap.more')}</th>
              <th class="wide">
                <span class="hidden">{t('cap.used')}</span>
              </th>
              <th>{t('cap.first')}</th>
            </tr>
          </thead>
          <tbody>
            {[...capacity.classes]
              .sort(worstFirst)
              .slice(0, SHOWN_CLASSES)
              .map((of) => (
                <ClassRow of={of} />
              ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

export function Overview({ me }: ScreenProps) {
  const stats = useQuery<ClusterStats>(OVERVIEW.stats, { every: 5000 });
  const capacity = useQuery<Capacity>(OVERVIEW.capacity, { every: 15_000 });
  const unplaced = useQuery<Page<'streams', StreamEntity>>(OVERVIEW.unplaced, { every: 5000 });
  const recent = useQuery<Page<'events', EventRecord>>(OVERVIEW.events, { wake: () => true });
  const layouter = useQuery<LayouterStatus>(mayRead(me, 'layouter') ? '/layouter' : null, {
    every: 15_000,
  });
  const error = stats.error ?? unplaced.error;
  const failed = capacity.error;
  const isOff = isLayouterOff(failed);
  if (!stats.data || !unplaced.data) {
    return error ? (
      <Failure error={error} again={stats.again} />
    ) : (
      <p class="boot">{t('loading')}</p>
    );
  }
  const cluster: Cluster = {
    stats: stats.data,
    capacity: isOff ? null : capacity.data,
    unplaced: unplaced.data.estimated_count,
    isOff,
    pause: layouter.data?.paused ?? null,
  };
  const events = folded(recent.data?.events ?? []).slice(0, SHOWN_EVENTS);
  return (
    <>
      <Headline cluster={cluster} />
      <Failure error={error ?? (isOff ? null : failed)} again={stats.again} />
      <Tiles cluster={cluster} />
      <div class="columns even">
        <NeedsPanel cluster={cluster} />
        <Panel title={t('recent.title')} aside={<a href={href('events')}>{t('recent.all')}</a>}>
          <Failure error={recent.error} />
          <EventLines events={events} none={t('recent.none')} />
        </Panel>
      </div>
      {cluster.capacity && <CapacityPanel capacity={cluster.capacity} />}
    </>
  );
}
