// Editing a stream: a merge patch, what would move because of it, then the save of that version.
import { useState } from 'preact/hooks';
import { ApiError, exchange, post } from '../api';
import { changeShown, checkedPatch, ConflictError } from '../changes';
import * as f from '../format';
import { streamPath, url } from '../json';
import type { Prediction, StreamEntity } from '../model';
import { Dialog, Failure } from '../parts';
import { useSteps } from '../steps';
import { code, t } from '../text';

const SHOWN_MOVES = 20;
const PREVIEWED_MAX = 1000;

/** A preview, and the version of the stream that it was made from. */
interface Preview {
  etag: string | null;
  /** `null`: the layouter is off, so nothing is moved. */
  prediction: Prediction | null;
  patch: string;
}

async function preview(name: string, patch: string): Promise<Preview> {
  const { etag } = await exchange<StreamEntity>('GET', streamPath(name));
  const path = url(`${streamPath(name)}/preview_layout_change`, { limit: PREVIEWED_MAX });
  try {
    return { etag, patch, prediction: await post<Prediction>(path, { text: patch }) };
  } catch (error) {
    const isOff = error instanceof ApiError && error.code === 'layouter_disabled';
    if (!isOff) throw error;
    return { etag, patch, prediction: null };
  }
}

const movesOf = ({ prediction }: Preview) =>
  prediction?.estimated_count ?? prediction?.changes.length ?? 0;

function Moves({ of }: { of: Preview }) {
  const n = movesOf(of);
  if (!of.prediction) return <p class="lead">{t('edit.no_preview')}</p>;
  if (n === 0) return <p class="lead">{t('edit.still')}</p>;
  return (
    <>
      <p class="lead">{t('edit.moving', { n })}</p>
      {of.prediction.changes.slice(0, SHOWN_MOVES).map((change) => (
        <p class="move">
          <b>{change.name}</b> → {change.ingest ?? t('stream.at_nothing')}{' '}
          <span class="muted">{code('reason', change.change_reason ?? 'none')}</span>
        </p>
      ))}
      {n > SHOWN_MOVES && <p class="muted">{t('bulk.more', { n: f.count(n - SHOWN_MOVES) })}</p>}
    </>
  );
}

interface EditProps {
  stream: StreamEntity;
  onClose: () => void;
  onSaved: () => void;
}

export function Edit({ stream, onClose, onSaved }: EditProps) {
  const [text, setText] = useState(JSON.stringify({ labels: stream.labels ?? {} }, null, 2));
  const [answer, setAnswer] = useState<Preview | null>(null);
  const { error, isBusy, run } = useSteps((failed) => {
    if (failed instanceof ConflictError) setAnswer(null);
  });
  const showPreview = () =>
    run(async () => setAnswer(await preview(stream.name, checkedPatch(text))));
  const save = (of: Preview) =>
    run(async () => {
      const { name } = stream;
      await changeShown({ path: streamPath(name), name, etag: of.etag }, of.patch);
      onSaved();
    });
  const change = (next: string) => {
    setText(next);
    setAnswer(null);
  };
  const n = answer ? movesOf(answer) : 0;
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button type="button" disabled={isBusy} onClick={showPreview}>
        {t('edit.preview')}
      </button>
      <button
        type="button"
        class="primary"
        disabled={isBusy || !answer}
        onClick={() => answer && save(answer)}
      >
        {n > 0 ? t('edit.save_moving', { n }) : t('edit.save')}
      </button>
    </>
  );
  return (
    <Dialog title={t('edit.title', { name: stream.name })} onClose={onClose} actions={actions}>
      <label class="stacked">
        {t('edit.patch')}
        <textarea
          rows={9}
          spellcheck={false}
          value={text}
          onInput={(event) => change(event.currentTarget.value)}
        />
      </label>
      <Failure error={error} />
      {answer && (
        <div role="status">
          <Moves of={answer} />
        </div>
      )}
    </Dialog>
  );
}
