// How old what is shown is: when the last answers of a screen came, and whether more come.

/** Something that is read again while it is shown. */
interface ShownAnswer {
  at: number;
  /** Its refreshes are caused by events: without one it is current. */
  isByEvents: boolean;
}

const shown = new Map<object, ShownAnswer>();
/** What got no answer to its last request. */
const unanswered = new Set<object>();
const watchers = new Set<() => void>();
/** When the last answer came, of whatever is or was shown. */
let lastAt: number | null = null;

function changed(): void {
  for (const watcher of watchers) watcher();
}

/** Keeps the time of the answer that is shown by `of`. */
export function keepAge(of: object, at: number, isByEvents: boolean): void {
  shown.set(of, { at, isByEvents });
  lastAt = Math.max(lastAt ?? 0, at);
}

/** Keeps whether `of` got an answer to its last request, be it a refusal. */
export function keepAnswered(of: object, isAnswered: boolean): void {
  const isNew = isAnswered ? unanswered.delete(of) : !unanswered.has(of);
  if (!isAnswered) unanswered.add(of);
  if (isNew) changed();
}

/** Forgets what is not shown any more. */
export function forgetAge(of: object): void {
  shown.delete(of);
}

/** The event log was read up to now: what refreshes by events is current. */
export function confirmAges(at = Date.now()): void {
  lastAt = Math.max(lastAt ?? 0, at);
  for (const answer of shown.values()) {
    if (answer.isByEvents) answer.at = Math.max(answer.at, at);
  }
}

/** The time of the oldest answer that is shown, else of the last one; `null`: there was none. */
export function oldestAge(): number | null {
  if (shown.size === 0) return lastAt;
  return Math.min(...[...shown.values()].map(({ at }) => at));
}

/** Whether something that is shown got no answer to its last request. */
export const isUnanswered = () => unanswered.size > 0;

/** Calls `watcher` when `isUnanswered` may have changed. Returns a function that ends that. */
export function onUnanswered(watcher: () => void): () => void {
  watchers.add(watcher);
  return () => void watchers.delete(watcher);
}
