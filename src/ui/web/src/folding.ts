// Events that belong together as one line.
import type { EventRecord } from './model';

/** An event, or several of one kind in a row. */
export interface FoldedEvent extends EventRecord {
  runs: number;
  /** The streamers of a line about their states. */
  hosts: string[];
}

/** Changes of streamers within this time are one line. */
const TOGETHER_MS = 60_000;

function belongs(last: FoldedEvent, event: EventRecord): boolean {
  if (last.event !== event.event) return false;
  if (event.event === 'layouter_processing_result') return true;
  return (
    event.event === 'layouter_streamer_state' &&
    last.state === event.state &&
    Math.abs(last.utc_ms - event.utc_ms) < TOGETHER_MS
  );
}

function add(last: FoldedEvent, event: EventRecord): void {
  last.runs += 1;
  if (event.entity_id) last.hosts.push(event.entity_id);
  last.relayouts_count = (last.relayouts_count ?? 0) + (event.relayouts_count ?? 0);
  const sums = { ...last.relayouts_why };
  for (const [why, n] of Object.entries(event.relayouts_why ?? {}))
    sums[why] = (sums[why] ?? 0) + n;
  last.relayouts_why = sums;
}

/**
 * Runs of the layouter that follow each other are one line with their sums; so are streamers that
 * changed alike within a minute.
 */
export function folded(events: EventRecord[]): FoldedEvent[] {
  const lines: FoldedEvent[] = [];
  for (const event of events) {
    const last = lines.at(-1);
    if (last && belongs(last, event)) add(last, event);
    else lines.push({ ...event, runs: 1, hosts: event.entity_id ? [event.entity_id] : [] });
  }
  return lines;
}
