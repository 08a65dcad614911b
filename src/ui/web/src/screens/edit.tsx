// Editing a stream or a streamer: a merge patch, what would move because of it, then the save of
// that version.
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { isLayouterOff } from '../api';
import { changeShown, checkedPatch, ConflictError, tagOf } from '../changes';
import { streamerPath, streamPath } from '../json';
import type { LoadChange, PredictedLayout, Prediction, Session } from '../model';
import type { StreamEntity, StreamerEntity } from '../model';
import { Dialog, Failure } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';
import { largestFirst, LOADS_READ, previewChange } from '../whatif';
import { Moves } from './moves';
import { Loads, Unplaced } from './whatif_answer';

const SHOWN_MOVES = 20;
/** Members of a streamer that the text begins with: none of them has a secret. */
const STREAMER_MEMBERS = ['labels', 'channel_limit', 'total_bandwidth'] as const;

/** What is edited, and how the answer about it is drawn. */
interface Edited<Change> {
  path: string;
  name: string;
  /** What the text begins with. */
  given: Record<string, unknown>;
  /** The largest number of changes that is requested. */
  limit: number;
  movesOf: (prediction: Prediction<Change>) => number;
  changesOf: (prediction: Prediction<Change>) => ComponentChildren;
}

/** A preview, and the version of the entity that it was made from. */
interface Preview<Change> {
  etag: string | null;
  /** `null`: nothing is predicted, because of `whyNot`. */
  prediction: Prediction<Change> | null;
  whyNot: string;
  patch: string;
}

async function preview<Change>(
  { path, limit }: Edited<Change>,
  patch: string,
  me: Session,
): Promise<Preview<Change>> {
  const without = async (whyNot: string) => {
    return { etag: await tagOf(path), patch, prediction: null, whyNot };
  };
  if (!me.may.execute) return without(t('whatif.may_not'));
  try {
    return { patch, whyNot: '', ...(await previewChange<Change>(path, { limit, text: patch })) };
  } catch (error) {
    if (!isLayouterOff(error)) throw error;
    return without(t('edit.no_preview'));
  }
}

function PreviewedMoves<Change>({ of, edited }: { of: Preview<Change>; edited: Edited<Change> }) {
  const { prediction, whyNot } = of;
  if (!prediction) return <p class="lead">{whyNot}</p>;
  const n = edited.movesOf(prediction);
  return (
    <>
      <p class="lead">{n === 0 ? t('edit.still') : t('edit.moving', { n })}</p>
      {edited.changesOf(prediction)}
    </>
  );
}

interface EditProps {
  me: Session;
  onClose: () => void;
  onSaved: () => void;
}

function Edit<Change>({ of, me, onClose, onSaved }: EditProps & { of: Edited<Change> }) {
  const { path, name } = of;
  const [text, setText] = useState(JSON.stringify(of.given, null, 2));
  const [answer, setAnswer] = useState<Preview<Change> | null>(null);
  const { error, isBusy, run } = useSteps((failed) => {
    if (failed instanceof ConflictError) setAnswer(null);
  });
  const showPreview = () => run(async () => setAnswer(await preview(of, checkedPatch(text), me)));
  const save = ({ etag, patch }: Preview<Change>) =>
    run(async () => {
      await changeShown({ path, name, etag }, patch);
      onSaved();
    });
  const change = (next: string) => {
    setText(next);
    setAnswer(null);
  };
  const n = answer?.prediction ? of.movesOf(answer.prediction) : 0;
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
    <Dialog title={t('edit.title', { name })} onClose={onClose} actions={actions}>
      <label class="stacked">
        {t('edit.patch')}
        <textarea
          rows={9}
          spellcheck={false}
          value={text}
          readOnly={isBusy}
          onInput={(event) => change(event.currentTarget.value)}
        />
      </label>
      <Failure error={error} />
      {answer && (
        <div role="status">
          <PreviewedMoves of={answer} edited={of} />
        </div>
      )}
    </Dialog>
  );
}

const streamMoves = ({ estimated_count, changes }: Prediction<PredictedLayout>) =>
  estimated_count ?? changes.length;

export function EditStream({ stream, ...props }: EditProps & { stream: StreamEntity }) {
  const { name, labels = {} } = stream;
  const edited: Edited<PredictedLayout> = {
    path: streamPath(name),
    name,
    given: { labels },
    limit: SHOWN_MOVES,
    movesOf: streamMoves,
    changesOf: (prediction) => (
      <Moves of={prediction.changes} total={streamMoves(prediction)} most={SHOWN_MOVES} />
    ),
  };
  return <Edit of={edited} {...props} />;
}

/** The loads that change, and how many streams more would have no place. */
function ChangedLoads({ of }: { of: Prediction<LoadChange> }) {
  const { changes, unplaced, unplaced_before, unplaced_sample, hidden } = of;
  const more = unplaced - unplaced_before;
  const total = of.estimated_count ?? changes.length;
  return (
    <>
      {changes.length > 0 && <Loads of={largestFirst(changes)} total={total} />}
      {!!hidden && <p class="muted">{t('whatif.hidden', { n: hidden })}</p>}
      {more > 0 && <p class="lead">{t('edit.unplaced', { n: more })}</p>}
      {more > 0 && unplaced_sample.length > 0 && <Unplaced of={unplaced_sample} />}
    </>
  );
}

export function EditStreamer({ streamer, ...props }: EditProps & { streamer: StreamerEntity }) {
  const { hostname } = streamer;
  const members = STREAMER_MEMBERS.filter((member) => streamer[member] !== undefined);
  const given = Object.fromEntries(members.map((member) => [member, streamer[member]]));
  const edited: Edited<LoadChange> = {
    path: streamerPath(hostname),
    name: hostname,
    given: { labels: {}, ...given },
    limit: LOADS_READ,
    movesOf: ({ moves_caused }) => moves_caused,
    changesOf: (prediction) => <ChangedLoads of={prediction} />,
  };
  return <Edit of={edited} {...props} />;
}
