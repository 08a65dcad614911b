// One event as a line of words. Kinds that are not known here are shown by their names.
import type { ComponentChildren } from 'preact';
import type { FoldedEvent } from '../folding';
import type { StateName } from '../model';
import { Given, Mark, shortHost, Time, type MarkOf } from '../parts';
import { href } from '../router';
import { code, hasText, locale, pieces, t } from '../text';

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
  const word = <b>{t(`state.${state}`).toLocaleLowerCase(locale)}</b>;
  if (event.runs > 1) {
    const hosts = event.hosts.slice(0, SHOWN_HOSTS).map(shortHost).join(', ');
    const more = event.runs > SHOWN_HOSTS ? ' …' : '';
    const streamers = (
      <a href={href('streamers', [], { state })}>{t('event.streamers', { n: event.runs })}</a>
    );
    return (
      <Line of={state}>
        {pieces('event.are', { streamers, state: word, names: <Given text={`${hosts}${more}`} /> })}
      </Line>
    );
  }
  const name = <Entity type="streamer" id={event.entity_id} />;
  return (
    <Line of={state}>
      {event.why
        ? pieces('event.is_because', { name, state: word, why: code('cause', event.why) })
        : pieces('event.is', { name, state: word })}
    </Line>
  );
}

function CallLine({ event }: { event: FoldedEvent }) {
  const key = `verb.${event.operation_id}`;
  const n = event.entities_count ?? 0;
  const user = event.user ? (
    <b translate={false}>{event.user.replace('api_token:', '')}</b>
  ) : (
    <b>{t('event.server')}</b>
  );
  const entity = <Entity type={event.entity_type} id={event.entity_id} />;
  return (
    <Line of={(event.status ?? 200) >= 400 ? 'error' : 'none'}>
      {hasText(key)
        ? pieces(key, { user, n, entity })
        : pieces('event.call', { user, operation: <Given text={event.operation_id} />, entity })}
    </Line>
  );
}

export function Sentence({ event }: { event: FoldedEvent }) {
  if (event.event === 'layouter_streamer_state') return <StateLine event={event} />;
  if (event.event === 'api_call') return <CallLine event={event} />;
  if (event.event === 'layouter_processing_result') {
    const moved = t('event.moved', { n: event.relayouts_count ?? 0 });
    return (
      <Line of="running">
        {event.runs > 1 ? t('event.runs', { moved, n: event.runs }) : moved}{' '}
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
