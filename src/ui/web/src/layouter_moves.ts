// What the layouter moved of late, from the runs in the event log.
import type { EventRecord } from './model';

export interface RecentMoves {
  runs: number;
  total: number;
  /** Most first. */
  reasons: [string, number][];
  /** There may be more runs than were read. */
  isPart: boolean;
}

/** Sums the newest runs, newest first, of which `most` were requested, since a time. */
export function recentMoves(events: EventRecord[], since: number, most: number): RecentMoves {
  const recent = events.filter((event) => event.utc_ms >= since);
  const sums = new Map<string, number>();
  let total = 0;
  for (const event of recent) {
    total += event.relayouts_count ?? 0;
    for (const [why, n] of Object.entries(event.relayouts_why ?? {})) {
      sums.set(why, (sums.get(why) ?? 0) + n);
    }
  }
  const reasons = [...sums].sort((a, b) => b[1] - a[1]);
  return { runs: recent.length, total, reasons, isPart: recent.length >= most };
}
