// A change of all streams that match the filters of the list: counted first, then made.
import { useEffect, useState } from 'preact/hooks';
import {
  changeMatching,
  countMatching,
  type MatchingChange,
  type MatchingCount,
  type MatchingResult,
} from '../changes';
import * as f from '../format';
import type { Session } from '../model';
import { Dialog, Failure, Name, TextInput } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';
import { labelPatch } from './bulk';

type Word =
  | 'streams.disable'
  | 'streams.enable'
  | 'streams.label'
  | 'streams.move'
  | 'streams.delete';

interface MatchingAction {
  word: Word;
  /** The change, of what is typed if something is, and whether moved streams are kept there. */
  change: (typed: string, isKept: boolean) => MatchingChange;
  field?: 'bulk.label' | 'bulk.host';
  isDangerous?: boolean;
}

const ACTIONS: MatchingAction[] = [
  { word: 'streams.disable', change: () => ({ patch: { disabled: true } }) },
  { word: 'streams.enable', change: () => ({ patch: { disabled: null } }) },
  {
    word: 'streams.label',
    change: (typed) => ({ patch: labelPatch(typed) }),
    field: 'bulk.label',
  },
  {
    word: 'streams.move',
    change: (typed, isKept) => ({ move: { ingest: typed.trim(), pinned: isKept } }),
    field: 'bulk.host',
  },
  { word: 'streams.delete', change: () => ({ delete: true }), isDangerous: true },
];

type Query = Record<string, string | undefined>;

/** What the server found. */
function Found({ of }: { of: MatchingCount }) {
  const more = of.count - of.sample.length;
  const { moves } = of;
  const unplaced = moves ? moves.unplaced - moves.unplaced_before : 0;
  return (
    <div class="consequences" role="status">
      {of.read_only !== undefined && <p>{t('bulk.read_only', { n: of.read_only })}</p>}
      {moves && <p>{t('bulk.moves', { n: moves.moves_caused })}</p>}
      {unplaced > 0 && <p>{t('bulk.unplaced', { n: unplaced })}</p>}
      <ul class="names">
        {of.sample.map((name) => (
          <li key={name}>
            <Name name={name} link={false} />
          </li>
        ))}
        {more > 0 && <li class="muted">{t('bulk.more', { n: f.count(more) })}</li>}
      </ul>
    </div>
  );
}

interface ConfirmProps {
  query: Query;
  action: MatchingAction;
  onDone: () => void;
  onClose: () => void;
}

function ConfirmMatching({ query, action, onDone, onClose }: ConfirmProps) {
  const [typed, setTyped] = useState('');
  const [isKept, setKept] = useState(false);
  const [found, setFound] = useState<MatchingCount | null>(null);
  const [progress, setProgress] = useState<MatchingResult | null>(null);
  const { error, isBusy, run } = useSteps(() => {
    setFound(null);
    setProgress(null);
  });
  const change = () => action.change(typed, isKept);
  const count = () => run(async () => setFound(await countMatching(query, change())));
  // What is typed is counted when it is complete.
  useEffect(() => {
    if (!action.field) count();
  }, []);
  const make = (expected: MatchingCount) =>
    run(async () => {
      await changeMatching(query, change(), expected, setProgress);
      onDone();
    });
  const word = found ? t('bulk.title', { what: t(action.word), n: found.count }) : t('bulk.count');
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button
        class={found && action.isDangerous ? 'danger' : 'primary'}
        type="button"
        disabled={isBusy || found?.count === 0}
        onClick={() => (found ? make(found) : count())}
      >
        {word}
      </button>
    </>
  );
  return (
    <Dialog
      title={t('bulk.matching', { what: t(action.word) })}
      onClose={onClose}
      actions={actions}
    >
      {action.field && (
        <TextInput
          label={t(action.field)}
          name="value"
          value={typed}
          onType={(text) => {
            setTyped(text);
            setFound(null);
          }}
        />
      )}
      {action.field === 'bulk.host' && (
        <label>
          <input
            type="checkbox"
            name="pinned"
            checked={isKept}
            onChange={(event) => {
              setKept(event.currentTarget.checked);
              setFound(null);
            }}
          />{' '}
          {t('bulk.keep')}
        </label>
      )}
      {found && <Found of={found} />}
      {progress && (
        <p role="status">
          {t('bulk.progress', { n: f.count(progress.done), total: f.count(progress.count) })}
        </p>
      )}
      <Failure error={error} />
    </Dialog>
  );
}

interface BulkMatchingProps {
  query: Query;
  total: number | null;
  me: Session;
  onDone: () => void;
  onClear: () => void;
}

/** The changes of all streams that match. */
export function BulkMatching({ query, total, me, onDone, onClear }: BulkMatchingProps) {
  const [action, setAction] = useState<MatchingAction | null>(null);
  const why = me.may.write ? undefined : t('error.not_permitted');
  const close = () => setAction(null);
  const done = () => {
    close();
    onDone();
  };
  return (
    <span class="bulk">
      <b>{t('streams.all', { n: total ?? 0 })}</b>
      {ACTIONS.map((it) => (
        <button disabled={!me.may.write} title={why} onClick={() => setAction(it)}>
          {t(it.word)}
        </button>
      ))}
      <button class="quiet" onClick={onClear}>
        {t('streams.clear')}
      </button>
      {action && <ConfirmMatching query={query} action={action} onDone={done} onClose={close} />}
    </span>
  );
}
