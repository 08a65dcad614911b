// Streams that would move, a line each.
import * as f from '../format';
import type { PredictedLayout } from '../model';
import { Given } from '../parts';
import { code, t } from '../text';

interface MovesProps {
  of: PredictedLayout[];
  /** How many there are; those that are not drawn are counted. */
  total: number;
  most: number;
}

export function Moves({ of, total, most }: MovesProps) {
  const shown = of.slice(0, most);
  return (
    <>
      {shown.map((move) => (
        <p key={move.name} class="move">
          <b translate={false}>{move.name}</b> →{' '}
          {move.ingest ? <Given text={move.ingest} /> : t('stream.at_nothing')}{' '}
          <span class="muted">{code('reason', move.change_reason ?? 'none')}</span>
        </p>
      ))}
      {total > shown.length && (
        <p class="muted">{t('bulk.more', { n: f.count(total - shown.length) })}</p>
      )}
    </>
  );
}
