// A small line beside a number: how it was in the last half hour.
import { HEIGHT, pathOf, WIDTH } from './line_path';
import type { HistoryTable } from './model';

interface LineProps {
  of: HistoryTable | null;
  field: string;
  /** The value at the upper edge; without it the largest one that is shown. */
  top?: number;
}

/** The last half hour of a number that stands beside it. */
export function Line({ of, field, top }: LineProps) {
  const path = of ? pathOf(of, field, top) : '';
  return (
    <svg
      class="line"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
      data-field={field}
    >
      {path && <path d={path} />}
    </svg>
  );
}
