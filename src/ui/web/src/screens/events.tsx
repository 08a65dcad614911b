// The event log, newest first: new lines come by themselves while one follows.
import { useEffect, useRef, useState } from 'preact/hooks';
import { EVENT_FIELDS, get } from '../api';
import { eventsQuery, fieldOf, fits, fromField, type EventFilter } from '../event_filter';
import { folded, type FoldedEvent } from '../folding';
import * as f from '../format';
import { url } from '../json';
import { onEvents } from '../live';
import type { EventRecord, Page } from '../model';
import { Choice, Failure, Given, JsonText, Name, Typed } from '../parts';
import { go, href, type ScreenProps } from '../router';
import { code, t } from '../text';
import { NoMatch } from './empty';
import { Sentence } from './event_line';

const KINDS = [
  'api_call',
  'layouter_processing_result',
  'layouter_streamer_state',
  'layouter_cpu_pressure',
  'layouter_brake_on',
  'layouter_brake_off',
  'layouter_paused',
  'layouter_resumed',
  'layouter_streamer_drained',
  'layouter_drain_overdue',
  'layouter_stream_held',
  'layouter_stream_released',
  'clock_doubted',
  'clock_believed',
  'agent_connected',
  'agent_disconnected',
  'agent_connect_failed',
  'agent_command_handling',
  'agent_make_streampoint_location_error',
  'server_starting',
  'server_started',
  'database_error',
];
const PAGE_LINES = 60;
const KEPT_MAX = 1000;
const SHOWN_MOVES = 60;

function Moves({ moves }: { moves: NonNullable<EventRecord['relayouts']> }) {
  const by = new Map<string, number>();
  for (const { why = 'none' } of moves) by.set(why, (by.get(why) ?? 0) + 1);
  const sums = [...by].map(([why, n]) => t('events.moves', { n, why: code('reason', why) }));
  return (
    <>
      <p class="lead">{sums.join(', ')}</p>
      <ul class="relayouts">
        {moves.slice(0, SHOWN_MOVES).map((move) => (
          <li>
            <Name name={move.name} /> →{' '}
            {move.ingest ? <Given text={move.ingest} /> : t('stream.at_nothing')}
          </li>
        ))}
      </ul>
    </>
  );
}

function Details({ id }: { id: number | string }) {
  const [event, set] = useState<EventRecord | null>(null);
  const [error, setError] = useState<Error | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    const path = `/events/${encodeURIComponent(id)}`;
    get<EventRecord>(path, { signal: abort.signal }).then(set, (failed: Error) => {
      if (!abort.signal.aborted) setError(failed);
    });
    return () => abort.abort();
  }, [id]);
  if (!event) return <Failure error={error} />;
  if (event.relayouts?.length) return <Moves moves={event.relayouts} />;
  return <JsonText value={event} label={t('events.details', { id })} />;
}

interface LineProps {
  event: FoldedEvent;
  isOpen: boolean;
  onToggle: () => void;
}

function Line({ event, isOpen, onToggle }: LineProps) {
  const toggle = (click: MouseEvent) => {
    const isLink = click.target instanceof Element && click.target.closest('a');
    if (!isLink) onToggle();
  };
  return (
    <li class={isOpen ? 'open' : ''}>
      <div class="event" onClick={toggle}>
        <button
          class="more"
          aria-expanded={isOpen}
          aria-label={t('events.details', { id: event.event_id })}
        >
          {isOpen ? '▾' : '▸'}
        </button>
        <time title={f.times(event.utc_ms)}>{f.time(event.utc_ms)}</time>
        <span class="line">
          <Sentence event={event} />
        </span>
        <span class="muted hide-m" translate={false}>
          {event.ip} {event.user_agent?.split('/')[0]}
        </span>
      </div>
      {isOpen && (
        <div class="detail">
          <Details id={event.event_id} />
        </div>
      )}
    </li>
  );
}

/** The lines of the log that match, kept current while they are followed. */
function useLog(filter: EventFilter) {
  const [rows, setRows] = useState<EventRecord[]>([]);
  const [next, setNext] = useState<string | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [isFollowed, setFollowed] = useState(true);
  const [held, setHeld] = useState<EventRecord[]>([]);
  const isRead = useRef(false);
  const query = { ...eventsQuery(filter), sort: '-event_id', limit: PAGE_LINES };
  const path = (cursor?: string) => url('/events', { ...query, select: EVENT_FIELDS, cursor });
  const first = path();
  const above = (events: EventRecord[], old: EventRecord[]) => {
    const known = new Set(old.map((event) => event.event_id));
    return [...events.filter((it) => !known.has(it.event_id)), ...old].slice(0, KEPT_MAX);
  };
  const read = async (at: string, signal?: AbortSignal) => {
    try {
      const page = await get<Page<'events', EventRecord>>(at, { signal });
      setRows((old) => (at === first ? page.events : [...old, ...page.events]));
      setNext(page.next);
      setError(null);
    } catch (failed) {
      if (!signal?.aborted) setError(failed as Error);
    }
    isRead.current = true;
  };
  useEffect(() => {
    const abort = new AbortController();
    isRead.current = false;
    setHeld([]);
    void read(first, abort.signal);
    return () => abort.abort();
  }, [first]);
  useEffect(
    () =>
      onEvents((events) => {
        const mine = events.filter((event) => fits(filter, event)).reverse();
        const put = isFollowed ? setRows : setHeld;
        if (mine.length) put((old) => above(mine, old));
      }),
    [first, isFollowed],
  );
  const follow = (is: boolean) => {
    setFollowed(is);
    if (is) setRows((old) => above(held, old));
    setHeld([]);
  };
  const older = next === null ? null : () => void read(path(next));
  return { rows, older, error, isFollowed, follow, held: held.length, isRead: isRead.current };
}

function Filters({ query }: { query: EventFilter }) {
  const set = (change: EventFilter) =>
    go(href('events', [], { ...query, ...change }), { replace: true });
  const kinds = KINDS.map((kind): [string, string] => [kind, code('kind', kind)]);
  return (
    <>
      <Choice
        label={t('events.kind')}
        value={query.kind}
        none={t('filter.any')}
        of={kinds}
        onPick={(kind) => set({ kind })}
      />
      <Typed
        label={t('events.entity')}
        value={query.entity ?? ''}
        onType={(entity) => set({ entity })}
      />
      <Typed label={t('events.user')} value={query.user ?? ''} onType={(user) => set({ user })} />
      <label class={`select${query.from ? ' on' : ''}`}>
        {t('events.from')}{' '}
        <input
          type="datetime-local"
          value={fieldOf(query.from ?? '', f.zone.utc)}
          onChange={(event) => set({ from: fromField(event.currentTarget.value, f.zone.utc) })}
        />
      </label>
      {Object.values(query).some(Boolean) && (
        <a class="button quiet" href={href('events')}>
          {t('filter.clear')}
        </a>
      )}
    </>
  );
}

export function Events({ route: { query } }: ScreenProps) {
  const log = useLog(query);
  const [open, setOpen] = useState<number | string | null>(null);
  const word = log.isFollowed
    ? `❚❚ ${t('events.following')}`
    : `▶ ${log.held ? t('events.held', { n: log.held }) : t('events.follow')}`;
  return (
    <>
      <div class="bar-top">
        <h1>{t('events.title')}</h1>
        <Filters query={query} />
        <span class="grow" />
        <button
          aria-pressed={log.isFollowed}
          class={log.isFollowed ? 'on' : ''}
          onClick={() => log.follow(!log.isFollowed)}
        >
          {word}
        </button>
      </div>
      <Failure error={log.error} />
      <div
        class="scroll-y log"
        tabindex={0}
        role="log"
        aria-label={t('events.title')}
        aria-live="off"
      >
        <ul>
          {folded(log.rows).map((event) => (
            <Line
              key={event.event_id}
              event={event}
              isOpen={open === event.event_id}
              onToggle={() => setOpen(open === event.event_id ? null : event.event_id)}
            />
          ))}
          {log.older && (
            <li>
              <button class="quiet" onClick={log.older}>
                {t('events.older')}
              </button>
            </li>
          )}
          {log.isRead && log.rows.length === 0 && (
            <li class="empty">
              {Object.values(query).some(Boolean) ? (
                <NoMatch screen="events">{t('events.none')}</NoMatch>
              ) : (
                t('recent.none')
              )}
            </li>
          )}
        </ul>
      </div>
    </>
  );
}
