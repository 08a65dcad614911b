// How far a tab has followed the event log, so that it can take over from another tab.
import type { EventRecord } from './model';

type EventId = EventRecord['event_id'];

/** The last event that was passed on. */
export class LogPosition {
  last: EventId | null = null;

  /** Forgets the position with `null`. */
  set(last: EventId | null): void {
    this.last = last;
  }

  /** Returns the events after the position, oldest first, and moves it behind them. */
  take(events: EventRecord[]): EventRecord[] {
    const { last } = this;
    const isNew = (id: EventId) => last === null || BigInt(id) > BigInt(last);
    const fresh = events.filter((event) => isNew(event.event_id));
    this.last = fresh.at(-1)?.event_id ?? last;
    return fresh;
  }
}
