// The path of a line: half an hour of a number. What is not known is a gap in it.
import type { HistoryTable } from './model';

/** The time that a line shows. */
const SHOWN_MS = 30 * 60_000;
export const WIDTH = 100;
export const HEIGHT = 24;

/** The path of a column within a box; empty without a number. */
export function pathOf(table: HistoryTable, field: string, top?: number): string {
  const column = table.fields.indexOf(field);
  const end = table.points.at(-1)?.[0];
  if (column < 1 || typeof end !== 'number') return '';
  const rows = table.points.filter(([at]) => Number(at) >= end - SHOWN_MS);
  const values = rows.map((row) => row[column] ?? null);
  const highest = top ?? Math.max(1, ...values.map((value) => value ?? 0));
  let path = '';
  let isDown = false;
  rows.forEach((row, n) => {
    const value = values[n] ?? null;
    if (value === null) {
      isDown = false;
      return;
    }
    const x = WIDTH - ((end - Number(row[0])) / SHOWN_MS) * WIDTH;
    const y = HEIGHT - 1 - Math.min(1, value / highest) * (HEIGHT - 2);
    const point = `${x.toFixed(1)} ${y.toFixed(1)}`;
    // One number alone is a dot.
    path += isDown ? `L${point}` : `M${point}h0`;
    isDown = true;
  });
  return path;
}
