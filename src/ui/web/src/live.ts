// What just changed: one waiting request per browser, however many tabs are open.
//
// The server speaks HTTP/1.1 and browsers keep six connections per host for all tabs together: a
// waiting request per tab would block the seventh tab. The tab that holds the lock follows the
// event log and sends the events to the others; when it is closed, the next one takes over.
import { confirmAges } from './ages';
import { ApiError, eventsAfter, get } from './api';
import { pauseAfter } from './back_off';
import { url } from './json';
import { LogPosition } from './log_position';
import type { EventRecord, Page } from './model';

export type LiveState = 'connecting' | 'live' | 'waiting' | 'stopped';
interface LiveMessage {
  state?: LiveState;
  /** When the next attempt is made, of the state `waiting`. */
  retryAt?: number;
  events?: EventRecord[];
  /** The position of the tab that follows, for tabs that have none. */
  last?: EventRecord['event_id'] | null;
  /** A new tab requests the state. */
  hello?: boolean;
}

/** The longest wait for events, seconds. */
const WAIT_S = 25;

const listeners = new Set<(events: EventRecord[]) => void>();
const watchers = new Set<(state: LiveState) => void>();
const channel = new BroadcastChannel('weir.live');
let state: LiveState = 'connecting';
let nextAt: number | null = null;
let isLeader = false;
/** Kept by every tab: the one that takes over goes on where the closed one was. */
const position = new LogPosition();

export const liveState = () => state;
/** When the next attempt is made; `null`: none is due. */
export const retryAt = () => nextAt;

/** Calls `listener` with new events, oldest first. Returns a function that ends that. */
export function onEvents(listener: (events: EventRecord[]) => void): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

export function onLiveState(watcher: (state: LiveState) => void): () => void {
  watchers.add(watcher);
  return () => void watchers.delete(watcher);
}

function deliver(message: LiveMessage): void {
  if (message.state) {
    state = message.state;
    nextAt = message.retryAt ?? null;
    if (state === 'live') confirmAges();
    for (const watcher of watchers) watcher(state);
  }
  if (message.last !== undefined && position.last === null) position.set(message.last);
  const events = position.take(message.events ?? []);
  if (events.length) for (const listener of listeners) listener(events);
}

channel.onmessage = ({ data }: MessageEvent<LiveMessage>) => {
  if (!data.hello) deliver(data);
  else if (isLeader) {
    channel.postMessage({ state, retryAt: nextAt ?? undefined, last: position.last });
  }
};

function broadcast(message: LiveMessage): void {
  channel.postMessage(message);
  deliver(message);
}

let running: AbortController | null = null;

/** Begins to follow. Without locks there is no waiting request: screens refresh by the clock. */
export function start(): void {
  if (running) return;
  if (!navigator.locks) {
    deliver({ state: 'stopped' });
    return;
  }
  running = new AbortController();
  const { signal } = running;
  channel.postMessage({ hello: true });
  navigator.locks.request('weir.live', { signal }, () => follow(signal)).catch(() => {});
}

export function stop(): void {
  running?.abort();
  running = null;
  // The next session begins at what is newest then.
  position.set(null);
}

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

async function newest(signal: AbortSignal): Promise<number | string> {
  const path = url('/events', { sort: '-event_id', limit: 1, select: 'event_id' });
  const page = await get<Page<'events', EventRecord>>(path, { signal });
  return page.events[0]?.event_id ?? 0;
}

async function follow(signal: AbortSignal): Promise<void> {
  isLeader = true;
  let failures = 0;
  while (!signal.aborted) {
    try {
      let { last } = position;
      if (last === null) {
        last = await newest(signal);
        broadcast({ state: 'live', last });
      }
      // After a failure the first answer, which shows that the server is back, comes at once.
      const page = await eventsAfter(last, failures ? undefined : WAIT_S, signal);
      failures = 0;
      broadcast({ state: 'live', events: page.events });
    } catch (error) {
      if (signal.aborted) break;
      // A session that may not read the log is not sent changes.
      const isRefused = error instanceof ApiError && [401, 403].includes(error.status);
      if (isRefused) {
        broadcast({ state: 'stopped' });
        break;
      }
      failures += 1;
      const pause = pauseAfter(failures);
      broadcast({ state: 'waiting', retryAt: Date.now() + pause });
      await sleep(pause);
    }
  }
  isLeader = false;
}
