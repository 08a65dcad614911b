// One event as a line of words. Kinds that are not known here are shown by their names.
import type { ComponentChildren } from 'preact';
import type { FoldedEvent } from '../folding';
import type { StateName } from '../model';
import { Mark, shortHost, Time, type MarkOf } from '../parts';
import { href } from '../router';
import { code, hasText, t } from '../text';

const STATES: StateName[] = ['up', 'held', 'unknown', 'offline'];
/** States of streamers by the names that the event log has for them. */
const STATE_OF: Record<string, StateName> = {
  down: 'offline',
  probation: 'held',
  unsure: 'unknown',
};
const SHOWN_HOSTS = 3;

function stateOf(word: string | undefined): StateName {
  const state = STATE_OF[word ?? ''] ?? STATES.find((known) => known === word);
  return state ?? 'unknown';
}

function Entity({ type, id }: { type?: string; id?: string }) {
  if (!id) return null;
  if (type !== 'stream' && type !== 'streamer') return <b translate={false}>{id}</b>;
  return (
    <a href={href(type === 'stream' ? 'streams' : 'streamers', [id])} class="name" translate={false}>
      {id}
    </a>
  );
}

function Line({ of, children }: { of: MarkOf; children: ComponentChildren }) {
  return (
    <>
      <Mark of={of} />
      <span>{children}</span>
    </>
  );
}

/** Why streams were moved, most first. */
function reasons(why: Record<string, number> | undefined): string {
  const all = Object.entries(why ?? {}).sort((a, b) => b[1] - a[1]);
  return all.map(([reason, n]) => `${n} ${code('reason', reason)}`).join(', ');
}

function StateLine({ event }: { event: FoldedEvent }) {
  const state = stateOf(event.state);
  const word = <b>{t(`state.${state}`).toLowerCase()}</b>;
  if (event.runs > 1) {
    const hosts = event.hosts.slice(0, SHOWN_HOSTS).map(shortHost).join(', ');
    return (
      <Line of={state}>
        <a href={href('streamers', [], { state })}>{t('event.streamers', { n: event.runs })}</a>{' '}
        {t('event.are')} {word}: {hosts} {event.runs > SHOWN_HOSTS ? '…' : ''}
      </Line>
    );
  }
  return (
    <Line of={state}>
      <Entity type="streamer" id={event.entity_id} /> {t('event.is')} {word}
      {event.why ? `: ${code('cause', event.why)}` : ''}
    </Line>
  );
}

function CallLine({ event }: { event: FoldedEvent }) {
  const key = `verb.${event.operation_id}`;
  const n = event.entities_count ?? 0;
  const user = (event.user ?? t('event.server')).replace('api_token:', '');
  return (
    <Line of={(event.status ?? 200) >= 400 ? 'error' : 'none'}>
      <b translate={false}>{user}</b> {hasText(key) ? t(key, { n }) : event.operation_id}{' '}
      <Entity type={event.entity_type} id={event.entity_id} />
    </Line>
  );
}

export function Sentence({ event }: { event: FoldedEvent }) {
  if (event.event === 'layouter_streamer_state') return <StateLine event={event} />;
  if (event.event === 'api_call') return <CallLine event={event} />;
  if (event.event === 'layouter_processing_result') {
    return (
      <Line of="running">
        {t('event.moved', { n: event.relayouts_count ?? 0 })}{' '}
        {event.runs > 1 && t('event.runs', { n: event.runs })}{' '}
        <span class="muted">{reasons(event.relayouts_why)}</span>
      </Line>
    );
  }
  return (
    <Line of="none">
      {code('kind', event.event)} <Entity type={event.entity_type} id={event.entity_id} />
    </Line>
  );
}

export function EventLines({ events, none }: { events: FoldedEvent[]; none: string }) {
  return (
    <ul class="lines">
      {events.map((event) => (
        <li key={event.event_id}>
          <Sentence event={event} />
          <span class="muted">
            <Time at={event.utc_ms} />
          </span>
        </li>
      ))}
      {events.length === 0 && <li class="muted">{none}</li>}
    </ul>
  );
}
