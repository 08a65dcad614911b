// The filters of the event log: from the address to parameters of the API, and whether an event fits.
import type { EventRecord } from './model';

/** As the address has them; `from` is a time as ISO 8601 or in UTC milliseconds. */
export type EventFilter = Partial<Record<'kind' | 'user' | 'entity' | 'from', string>>;

const MS_PER_MINUTE = 60_000;

/** The time of a text in UTC ms; a text that is no time stays, and the server refuses it. */
function timeOf(from: string): number | string {
  const ms = /^\d+$/.test(from) ? Number(from) : Date.parse(from);
  return Number.isNaN(ms) ? from : ms;
}

/** A user as events name it: a token is shown without the prefix that it has there. */
const usersOf = (user: string) => (user.includes(':') ? [user] : [user, `api_token:${user}`]);

export function eventsQuery({ kind, user, entity, from }: EventFilter) {
  return {
    event: kind,
    user: user && usersOf(user).join(','),
    entity_id: entity,
    utc_ms_gte: from && timeOf(from),
  };
}

/** Whether a new event belongs to the list. */
export function fits({ kind, user, entity, from }: EventFilter, event: EventRecord): boolean {
  return (
    (!kind || event.event === kind) &&
    (!user || usersOf(user).includes(event.user ?? '')) &&
    (!entity || event.entity_id === entity) &&
    (!from || event.utc_ms >= Number(timeOf(from)))
  );
}

/** The time as a field for local times has it, shown in the zone of the interface. */
export function fieldOf(from: string, isUtc: boolean): string {
  const ms = from ? timeOf(from) : '';
  if (typeof ms === 'string') return '';
  const shift = isUtc ? 0 : new Date(ms).getTimezoneOffset() * MS_PER_MINUTE;
  return isoOf(ms - shift).slice(0, 16);
}

/** Empty for a number that is no time. */
function isoOf(ms: number): string {
  const time = new Date(ms);
  return Number.isNaN(time.getTime()) ? '' : time.toISOString();
}

/** The time that such a field holds, for the address; empty: none. */
export const fromField = (field: string, isUtc: boolean): string =>
  isoOf(Date.parse(isUtc ? `${field}Z` : field));
