// The landing page: whether the cluster is well, what needs attention, how much room is left.
import { OVERVIEW } from '../api';
import { folded } from '../folding';
import * as f from '../format';
import { Line } from '../line';
import {
  HEALTHS,
  type AttentionKind,
  type AttentionLine,
  type CapacityClass,
  type CapacitySummary,
  type ClusterSummary,
  type Counts,
  type EventRecord,
  type HistoryTable,
  type Page,
} from '../model';
import { Bar, Failure, Labels, Mark, Panel, shortHost, Stack, Tile, type MarkOf } from '../parts';
import { useQuery } from '../query';
import { href } from '../router';
import { MAINTENANCE_STAGES } from '../streamer_rows';
import { t } from '../text';
import { EventLines } from './event_line';

const SHOWN_EVENTS = 8;
const SHOWN_HOSTS = 3;

/** A part of a count, which leads to its list. */
interface CountPart {
  of: MarkOf;
  n: number;
  word: string;
  to: string;
}

interface CountTileProps {
  title: string;
  counts: Counts;
  screen: 'streams' | 'streamers';
  /** Other parts than those by health. */
  more?: CountPart[];
}

function CountTile({ title, counts, screen, more = [] }: CountTileProps) {
  const byHealth = HEALTHS.map((health): CountPart => ({
    of: health,
    n: counts[health],
    word: t(`status.${health}`),
    to: href(screen, [], { health }),
  }));
  const shown = [...byHealth, ...more].filter(({ n }) => n > 0);
  const links = shown.map(({ of, n, word, to }) => (
    <a class="count" href={to} title={f.count(n)} key={to}>
      <Mark of={of} />
      {f.short(n)} {word.toLowerCase()}
    </a>
  ));
  const parts = HEALTHS.map((of) => ({ of, n: counts[of] }));
  return (
    <Tile title={title} value={f.count(counts.total)} to={href(screen)} links={links}>
      <Stack total={counts.total} parts={parts} />
    </Tile>
  );
}

/** Enabled streams that are on a streamer. */
const placedOf = ({ streams }: ClusterSummary) =>
  streams.total - streams.disabled - streams.unplaced;

const isOff = ({ layouter }: ClusterSummary) => layouter?.enabled === false;

/** The streamers that are worked on, by how far that is. */
const maintained = ({ streamers: { states } }: ClusterSummary): CountPart[] =>
  MAINTENANCE_STAGES.map((stage) => ({
    of: stage,
    n: states[stage] ?? 0,
    word: t(`state.${stage}`),
    to: href('streamers', [], { state: stage }),
  }));

interface TilesProps {
  summary: ClusterSummary;
  history: HistoryTable | null;
}

function Tiles({ summary, history }: TilesProps) {
  const { capacity: room, streams, streamers, traffic } = summary;
  const placed = placedOf(summary);
  const first = room?.bottleneck && `${t('cap.first')}: ${t(`bottleneck.${room.bottleneck}`)}`;
  return (
    <div class="tiles">
      <CountTile title={t('tile.streams')} counts={streams} screen="streams" />
      <CountTile
        title={t('tile.streamers')}
        counts={streamers}
        screen="streamers"
        more={maintained(summary)}
      />
      <Tile
        title={t('tile.room')}
        value={room ? `+${f.count(room.streams_more)}` : '–'}
        note={first}
      >
        {room && <Bar part={placed} of={placed + room.streams_more} warn={0.9} />}
        {room && <Line of={history} field="streams_more" />}
      </Tile>
      <Tile title={t('tile.ingest')} value={f.rate(traffic.input_kbit)}>
        <Line of={history} field="input_kbit" />
      </Tile>
      <Tile title={t('tile.delivery')} value={f.rate(traffic.output_kbit)}>
        <Line of={history} field="output_kbit" />
      </Tile>
      <Tile title={t('col.viewers')} value={f.count(traffic.clients)}>
        <Line of={history} field="clients" />
      </Tile>
    </div>
  );
}

function Headline({ summary }: { summary: ClusterSummary }) {
  const { streams, streamers } = summary;
  const { unplaced } = streams;
  const lost = streamers.outage;
  const of: MarkOf = unplaced || lost ? 'outage' : streams.outage ? 'degradated' : 'operational';
  const what = unplaced
    ? t('head.unplaced', { n: unplaced })
    : t('head.placed', { n: placedOf(summary) });
  return (
    <div class={`headline ${of}`}>
      <Mark of={of} />
      <h1>
        {what}
        {lost > 0 && `, ${t('head.outage', { n: lost })}`}
      </h1>
      <span class="muted">
        {t('head.at', { at: f.clock(summary.at) })}
        {isOff(summary) && (
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
  /** How many streamers the line is about: more than `hosts` names, if there are many. */
  total: number;
}

const toStreamer = (hostname: string) => href('streamers', [hostname]);

/** Where the text of a line leads, by its kind. */
const LEADS: Partial<Record<AttentionKind, string>> = {
  unplaced: href('streams', [], { placed: 'no', enabled: 'yes' }),
  streamer_down: href('streamers', [], { state: 'offline' }),
  streamer_probation: href('streamers', [], { state: 'held' }),
  streamer_streams: href('streamers', [], { sort: '-errors' }),
  layouter_off: href('layouter'),
  layouter_paused: href('layouter'),
  brake: href('layouter'),
  stream_flapping: href('layouter'),
};

/** Kinds whose count is a number of streams, which the text has or the streamer shows. */
const OF_CLUSTER: AttentionKind[] = ['unplaced', 'stream_flapping'];

/** What needs attention, the worst first: trouble of one kind is one line. */
function needs({
  attention,
  attention_kinds,
  streamers,
  layouter,
}: ClusterSummary): NeedLine[] {
  const byKind = new Map<AttentionKind, AttentionLine[]>();
  for (const line of attention) {
    byKind.set(line.kind, [...(byKind.get(line.kind) ?? []), line]);
  }
  const lines = [...byKind].map(([kind, of]): NeedLine => {
    const total = attention_kinds[kind] ?? of.length;
    const n = OF_CLUSTER.includes(kind) ? of[0]!.count : total;
    return {
      of: of[0]!.severity === 3 ? 'outage' : 'degradated',
      text:
        kind === 'layouter_paused' && layouter?.paused
          ? t(`paused.${layouter.paused}`)
          : t(`need.${kind}`, { n }),
      to: LEADS[kind],
      hostTo:
        kind === 'loss' ? (hosts) => href('whatif', [], { kind: 'lose', hosts }) : toStreamer,
      hosts: of.flatMap(({ subject, count }) => (subject ? { hostname: subject, n: count } : [])),
      total,
    };
  });
  if (streamers.outage > 0) {
    lines.unshift({
      of: 'outage',
      text: t('need.outage', { n: streamers.outage }),
      to: href('streamers', [], { health: 'outage' }),
      hosts: [],
      total: 0,
    });
  }
  return lines;
}

function Need({ line: { of, text, to, hosts, total, hostTo = toStreamer } }: { line: NeedLine }) {
  return (
    <li>
      <Mark of={of} />
      {to ? <a href={to}>{text}</a> : <span>{text}</span>}
      <span class="some">
        {hosts.slice(0, SHOWN_HOSTS).map(({ hostname, n }) => (
          <a class="chip" href={hostTo(hostname)} translate={false}>
            {shortHost(hostname)} {n > 0 && <b>{f.short(n)}</b>}
          </a>
        ))}
        {hosts.length > 0 && total > SHOWN_HOSTS && (
          <span class="muted">+{f.count(total - SHOWN_HOSTS)}</span>
        )}
      </span>
    </li>
  );
}

function NeedsPanel({ summary }: { summary: ClusterSummary }) {
  const lines = needs(summary);
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

function CapacityPanel({ capacity }: { capacity: CapacitySummary }) {
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
            {capacity.classes.map((of) => (
              <ClassRow of={of} />
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

export function Overview() {
  const query = useQuery<ClusterSummary>(OVERVIEW.summary, { every: 5000 });
  const history = useQuery<HistoryTable>(OVERVIEW.history, { every: 15_000 });
  const recent = useQuery<Page<'events', EventRecord>>(OVERVIEW.events, { wake: () => true });
  const summary = query.data;
  if (!summary) {
    return query.error ? (
      <Failure error={query.error} again={query.again} />
    ) : (
      <p class="boot">{t('loading')}</p>
    );
  }
  const events = folded(recent.data?.events ?? []).slice(0, SHOWN_EVENTS);
  return (
    <>
      <Headline summary={summary} />
      <Failure error={query.error} again={query.again} />
      <Tiles summary={summary} history={history.data} />
      <div class="columns even">
        <NeedsPanel summary={summary} />
        <Panel title={t('recent.title')} aside={<a href={href('events')}>{t('recent.all')}</a>}>
          <Failure error={recent.error} />
          <EventLines events={events} none={t('recent.none')} />
        </Panel>
      </div>
      {summary.capacity && <CapacityPanel capacity={summary.capacity} />}
    </>
  );
}
