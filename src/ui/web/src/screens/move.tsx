// Streams are put on a streamer by hand: first what the layouter thinks of it, then the move.
import { useState } from 'preact/hooks';
import { isLayouterOff } from '../api';
import {
  ConflictError,
  moveStreams,
  storedNow,
  verdictsOf,
  type LayoutVerdict,
  type MovedStream,
  type Placement,
} from '../changes';
import * as f from '../format';
import { CheckBox, Dialog, Failure, Name, TextInput } from '../parts';
import { useSteps } from '../steps';
import { code, t } from '../text';

const SHOWN_NAMES = 8;

/** What the layouter would do with the streams there; without it they stay where they are put. */
type Verdicts = { of: LayoutVerdict[] } | 'no_layouter';

interface UndoneProps {
  reason: string;
  names: string[];
}

function Undone({ reason, names }: UndoneProps) {
  const rest = names.length - SHOWN_NAMES;
  return (
    <>
      <p class="lead">{t('move.undone', { n: names.length, reason })}</p>
      <ul class="names">
        {names.slice(0, SHOWN_NAMES).map((name) => (
          <li key={name}>
            <Name name={name} link={false} />
          </li>
        ))}
        {rest > 0 && <li class="muted">{t('bulk.more', { n: f.count(rest) })}</li>}
      </ul>
    </>
  );
}

function Judged({ verdicts }: { verdicts: Verdicts }) {
  if (verdicts === 'no_layouter') return <p class="lead">{t('move.no_layouter')}</p>;
  const stay = verdicts.of.filter((it) => it.verdict === 'ok').length;
  const undone = new Map<string, string[]>();
  for (const { verdict, reasons = [], name } of verdicts.of) {
    if (verdict === 'ok') continue;
    const reason = reasons.map((of) => code('reason', of)).join(', ') || t('reason.none');
    undone.set(reason, [...(undone.get(reason) ?? []), name]);
  }
  return (
    <>
      {stay > 0 && <p class="lead">{t('move.stays', { n: stay })}</p>}
      {[...undone].map(([reason, names]) => (
        <Undone key={reason} reason={reason} names={names} />
      ))}
    </>
  );
}

interface MoveProps {
  names: string[];
  /** Where they are now. */
  ingest?: string;
  isPinned?: boolean;
  onClose: () => void;
  onMoved: () => void;
}

export function Move(props: MoveProps) {
  const { onClose, onMoved } = props;
  // Without those that turned out to be deleted.
  const [streams, setStreams] = useState(() => props.names.map((name): MovedStream => ({ name, etag: null })));
  const [ingest, setIngest] = useState(props.ingest ?? '');
  const [isKept, setKept] = useState(props.isPinned ?? false);
  const [verdicts, setVerdicts] = useState<Verdicts | null>(null);
  const { error, isBusy, run } = useSteps((failed) => {
    setVerdicts(null);
    const gone = failed instanceof ConflictError ? failed.gone : [];
    setStreams((old) => old.filter(({ name }) => !gone.includes(name)));
  });
  const to: Placement = { ingest: ingest.trim(), pinned: isKept };
  const [only] = streams;
  const judge = () =>
    run(async () => {
      // One stream is judged and moved in the version that is stored now; of many it is enough
      // that they exist.
      const isOne = only !== undefined && streams.length === 1;
      const now = isOne ? [await storedNow(only.name)] : streams;
      setStreams(now);
      try {
        setVerdicts({ of: await verdictsOf(now, to) });
      } catch (failed) {
        if (!isLayouterOff(failed)) throw failed;
        setVerdicts('no_layouter');
      }
    });
  const move = () =>
    run(async () => {
      await moveStreams(streams, to);
      onMoved();
    });
  const n = streams.length;
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button
        class="primary"
        type="button"
        disabled={isBusy || n === 0 || to.ingest === ''}
        onClick={verdicts ? move : judge}
      >
        {verdicts ? t('bulk.title', { what: t('streams.move'), n }) : t('move.check')}
      </button>
    </>
  );
  const title =
    only && n === 1
      ? t('move.title', { name: only.name })
      : t('bulk.title', { what: t('streams.move'), n });
  return (
    <Dialog title={title} onClose={onClose} actions={actions}>
      <TextInput
        label={t('bulk.host')}
        name="ingest"
        value={ingest}
        onType={(text) => {
          setIngest(text);
          setVerdicts(null);
        }}
      />
      <CheckBox
        label={t('bulk.keep')}
        name="pinned"
        isChecked={isKept}
        onCheck={(isChecked) => {
          setKept(isChecked);
          setVerdicts(null);
        }}
      />
      {n > 1 && <p class="muted">{t('bulk.atomic')}</p>}
      {verdicts && (
        <div role="status" class="verdicts">
          <Judged verdicts={verdicts} />
        </div>
      )}
      <Failure error={error} />
    </Dialog>
  );
}
