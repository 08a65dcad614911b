// Editing a stream: a merge patch, what would move because of it, then the save of that version.
import { useState } from 'preact/hooks';
import { isLayouterOff } from '../api';
import { changeShown, checkedPatch, ConflictError, tagOf } from '../changes';
import { streamPath } from '../json';
import type { PredictedLayout, Prediction, StreamEntity } from '../model';
import { Dialog, Failure } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';
import { previewChange } from '../whatif';
import { Moves } from './moves';

const SHOWN_MOVES = 20;

/** A preview, and the version of the stream that it was made from. */
interface Preview {
  etag: string | null;
  /** `null`: the layouter is off, so nothing is moved. */
  prediction: Prediction<PredictedLayout> | null;
  patch: string;
}

async function preview(name: string, patch: string): Promise<Preview> {
  const path = streamPath(name);
  try {
    const asked = { limit: SHOWN_MOVES, text: patch };
    return { patch, ...(await previewChange<PredictedLayout>(path, asked)) };
  } catch (error) {
    if (!isLayouterOff(error)) throw error;
    return { etag: await tagOf(path), patch, prediction: null };
  }
}

const movesOf = ({ prediction }: Preview) =>
  prediction?.estimated_count ?? prediction?.changes.length ?? 0;

function PreviewedMoves({ of }: { of: Preview }) {
  const n = movesOf(of);
  if (!of.prediction) return <p class="lead">{t('edit.no_preview')}</p>;
  if (n === 0) return <p class="lead">{t('edit.still')}</p>;
  return (
    <>
      <p class="lead">{t('edit.moving', { n })}</p>
      <Moves of={of.prediction.changes} total={n} most={SHOWN_MOVES} />
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
          <PreviewedMoves of={answer} />
        </div>
      )}
    </Dialog>
  );
}
