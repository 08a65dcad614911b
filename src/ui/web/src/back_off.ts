// When a request is repeated that got no answer.

const PAUSE_MIN_MS = 1000;
const PAUSE_MAX_MS = 30_000;

/**
 * The pause before the next attempt, after so many that failed: from 1 s to 30 s, and up to half as
 * long again, so that browsers do not come back to a server all at once.
 */
export function pauseAfter(failures: number, random = Math.random()): number {
  const doubled = PAUSE_MIN_MS * 2 ** Math.min(failures - 1, 10);
  const pause = Math.min(doubled, PAUSE_MAX_MS);
  return pause + (random * pause) / 2;
}
