// What an explanation of a placement has about the ingest of a stream.
import type { ExplainGroup, ExplainNode, Explanation } from './model';

/** A preferred label counts this much in a score, beside less load. */
const SCORE_PER_LABEL = 1000;
const PERMILLE_PER_PERCENT = 10;

/** How well the labels of a streamer suit: its score without the part for its load. */
export function labelScore({ score = 0, load_percent: load }: ExplainNode): number {
  const free = SCORE_PER_LABEL - Math.min(SCORE_PER_LABEL, load * PERMILLE_PER_PERCENT);
  return Math.max(0, Math.round((score - free) / SCORE_PER_LABEL));
}

interface Places {
  /** The current streamer and the best ones, as far as they may take the stream. */
  candidates: ExplainNode[];
  /** How many more may take it. */
  more: number;
  /** Streamers that may not, by their reasons, the largest group first. */
  obstacles: ExplainGroup[];
}

export function placesOf({ nodes, groups }: Explanation): Places {
  const candidates = nodes.filter((node) => node.role === 'ingest' && node.node_decision);
  const ofIngest = groups.filter((group) => group.role === 'ingest');
  const able = ofIngest.find(({ reasons }) => reasons.length === 0)?.nodes ?? 0;
  return {
    candidates,
    more: Math.max(0, able - candidates.length),
    obstacles: ofIngest.filter(({ reasons }) => reasons.length > 0),
  };
}
