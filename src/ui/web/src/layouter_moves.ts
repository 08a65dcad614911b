// What the layouter decided of late, as its state counts it.
import type { LayouterStatus } from './model';

export interface RecentMoves {
  total: number;
  /** Most first. */
  reasons: [string, number][];
}

/** The decisions of the last hour by their reasons. */
export function recentMoves({ moves_1h: moves }: Pick<LayouterStatus, 'moves_1h'>): RecentMoves {
  const reasons = Object.entries(moves.by_reason).sort((a, b) => b[1] - a[1]);
  return { total: reasons.reduce((sum, [, n]) => sum + n, 0), reasons };
}
