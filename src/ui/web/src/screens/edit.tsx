// Editing a stream or a streamer: a merge patch, what would move because of it, then the save of
// that version. If another change came first, both versions are shown, and what would move by then.
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { exchange, isLayouterOff } from '../api';
import { changeShown, checkedPatch, isLate } from '../changes';
import { differencesOf, type Difference } from '../comparison';
import { parse, streamerPath, streamPath } from '../json';
import type { LoadChange, PredictedLayout, Prediction, Session } from '../model';
import type { StreamEntity, StreamerEntity } from '../model';
import { Dialog, Failure } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';
import { largestFirst, LOADS_READ, previewChange } from '../whatif';
import { Conflict } from './conflict';
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
  /** That version, with secrets: it is compared, not shown. */
  entity: unknown;
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
    const { data, etag } = await exchange<unknown>('GET', path);
    return { etag, entity: data, patch, prediction: null, whyNot };
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

/** A save that came too late. */
interface LateSave {
  /** The version that the change was made for. */
  before: unknown;
  differences: Difference[];
}

/** The steps of a change: its preview, then its save; once more if another change came first. */
function useChange<Change>(of: Edited<Change>, me: Session, onSaved: () => void) {
  const { path, name } = of;
  const [answer, setAnswer] = useState<Preview<Change> | null>(null);
  const [late, setLate] = useState<LateSave | null>(null);
  const { error, isBusy, run } = useSteps();
  const compare = async ({ entity, patch }: Preview<Change>) => {
    const before = late ? late.before : entity;
    const now = await preview(of, patch, me);
    setLate({ before, differences: differencesOf(before, now.entity, parse(patch)) });
    setAnswer(now);
  };
  const save = (shown: Preview<Change>) =>
    run(async () => {
      try {
        await changeShown({ path, name, etag: shown.etag }, shown.patch);
      } catch (failed) {
        if (!isLate(failed)) throw failed;
        await compare(shown);
        return;
      }
      onSaved();
    });
  const forget = () => {
    setAnswer(null);
    setLate(null);
  };
  const show = (text: string) =>
    run(async () => {
      setLate(null);
      setAnswer(await preview(of, checkedPatch(text), me));
    });
  return { answer, late, error, isBusy, show, save, forget };
}

/** What would become of the change, and what came before it. */
function Consequences<Change>(props: {
  answer: Preview<Change> | null;
  late: LateSave | null;
  edited: Edited<Change>;
}) {
  const { answer, late, edited } = props;
  return (
    <>
      {late && <Conflict of={late.differences} />}
      {answer && (
        <div role="status">
          <PreviewedMoves of={answer} edited={edited} />
        </div>
      )}
    </>
  );
}

interface EditProps {
  me: Session;
  onClose: () => void;
  onSaved: () => void;
}

function saveWord(n: number, isLateSave: boolean): string {
  if (isLateSave) return n > 0 ? t('conflict.save_moving', { n }) : t('conflict.save');
  return n > 0 ? t('edit.save_moving', { n }) : t('edit.save');
}

function Edit<Change>({ of, me, onClose, onSaved }: EditProps & { of: Edited<Change> }) {
  const [text, setText] = useState(JSON.stringify(of.given, null, 2));
  const { answer, late, error, isBusy, show, save, forget } = useChange(of, me, onSaved);
  const change = (next: string) => {
    setText(next);
    forget();
  };
  const n = answer?.prediction ? of.movesOf(answer.prediction) : 0;
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      {late ? (
        <button type="button" disabled={isBusy} onClick={onSaved}>
          {t('conflict.drop')}
        </button>
      ) : (
        <button type="button" disabled={isBusy} onClick={() => show(text)}>
          {t('edit.preview')}
        </button>
      )}
      <button
        type="button"
        class="primary"
        disabled={isBusy || !answer}
        onClick={() => answer && save(answer)}
      >
        {saveWord(n, late !== null)}
      </button>
    </>
  );
  return (
    <Dialog title={t('edit.title', { name: of.name })} onClose={onClose} actions={actions}>
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
      <Consequences answer={answer} late={late} edited={of} />
    </Dialog>
  );
}

const streamMoves = ({ estimated_count, changes }: Prediction<PredictedLayout>) =>
  estimated_count ?? changes.length;

function editedStream({ name, labels = {} }: StreamEntity): Edited<PredictedLayout> {
  return {
    path: streamPath(name),
    name,
    given: { labels },
    limit: SHOWN_MOVES,
    movesOf: streamMoves,
    changesOf: (prediction) => (
      <Moves of={prediction.changes} total={streamMoves(prediction)} most={SHOWN_MOVES} />
    ),
  };
}

export function EditStream({ stream, ...props }: EditProps & { stream: StreamEntity }) {
  return <Edit of={editedStream(stream)} {...props} />;
}

/** A stream is enabled or disabled, after an answer to what would move. */
export function ToggleStream({ stream, me, onClose, onSaved }: EditProps & { stream: StreamEntity }) {
  const [of] = useState(() => editedStream(stream));
  const [isDisabled] = useState(stream.disabled ?? false);
  const { answer, late, error, isBusy, show, save } = useChange(of, me, onSaved);
  useEffect(() => show(JSON.stringify({ disabled: isDisabled ? null : true })), []);
  const what = isDisabled ? t('streams.enable') : t('streams.disable');
  const n = answer?.prediction ? of.movesOf(answer.prediction) : 0;
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button
        type="button"
        class="primary"
        disabled={isBusy || !answer}
        onClick={() => answer && save(answer)}
      >
        {n > 0 ? t('stream.toggle_moving', { what, n }) : what}
      </button>
    </>
  );
  const title = t('stream.toggles', { what, name: of.name });
  return (
    <Dialog title={title} onClose={onClose} actions={actions}>
      <Failure error={error} />
      <Consequences answer={answer} late={late} edited={of} />
    </Dialog>
  );
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
