// How a stream runs, as a mark and as a word.
import type { StreamEntity } from '../model';
import type { MarkOf } from '../parts';
import { t } from '../text';

/** `disabled`, `unplaced`, or what its streamer reported. */
export function runMark(stream: StreamEntity): MarkOf {
  if (stream.disabled) return 'disabled';
  if (!stream.layout?.ingest) return 'unplaced';
  return stream.stats?.status ?? 'none';
}

export function runWord(stream: StreamEntity): string {
  if (stream.disabled) return t('status.disabled');
  if (!stream.layout?.ingest) return t('status.unplaced');
  return t(`run.${stream.stats?.status ?? 'none'}`);
}
