// A change of all streams that match the filters of the list: counted first, then made.
import { useEffect, useState } from 'preact/hooks';
import {
  changeMatching,
  countMatching,
  labelPatch,
  type Filters,
  type MatchingChange,
  type MatchingCount,
} from '../changes';
import * as f from '../format';
import type { Session } from '../model';
import { CheckBox, Dialog, Failure, Name, TextInput } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';

type Word =
  | 'streams.disable'
  | 'streams.enable'
  | 'streams.label'
  | 'streams.move'
  | 'streams.delete';

export interface MatchingAction {
  word: Word;
  /** The change, of what is typed if something is, and whether moved streams are kept there. */
  change: (typed: string, isKept: boolean) => MatchingChange;
  field?: 'bulk.label' | 'bulk.host';
  isDangerous?: boolean;
}

const DELETION: MatchingAction = {
  word: 'streams.delete',
  change: () => ({ delete: true }),
  isDangerous: true,
};
export const ACTIONS: MatchingAction[] = [
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
  DELETION,
];

const SHOWN_NAMES = 10;
const sum = (of: MatchingCount[], member: (count: MatchingCount) => number) =>
  of.reduce((n, count) => n + member(count), 0);
const streamsOf = (found: MatchingCount[]) => sum(found, ({ count }) => count);

/** What the server found, by each of the filters. */
function Found({ of }: { of: MatchingCount[] }) {
  const names = of.flatMap(({ sample }) => sample).slice(0, SHOWN_NAMES);
  const more = streamsOf(of) - names.length;
  const fixed = sum(of, ({ read_only }) => read_only ?? 0);
  const moves = of.flatMap((count) => count.moves ?? []);
  const caused = moves.reduce((n, it) => n + it.moves_caused, 0);
  const unplaced = moves.reduce((n, it) => n + it.unplaced - it.unplaced_before, 0);
  return (
    <div class="consequences" role="status">
      {fixed > 0 && <p>{t('bulk.read_only', { n: fixed })}</p>}
      {moves.length > 0 && <p>{t('bulk.moves', { n: caused })}</p>}
      {unplaced > 0 && <p>{t('bulk.unplaced', { n: unplaced })}</p>}
      <ul class="names">
        {names.map((name) => (
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
  title: string;
  /** Each matches other streams. */
  queries: Filters[];
  action: MatchingAction;
  /** Makes the change after the count; absent: what was counted is changed by its filters. */
  save?: (change: MatchingChange) => Promise<void>;
  /** A sentence about the change. */
  lead?: string;
  onDone: () => void;
  onClose: () => void;
}

export function ConfirmMatching(props: ConfirmProps) {
  const { title, queries, action, save, lead, onDone, onClose } = props;
  const [typed, setTyped] = useState('');
  const [isKept, setKept] = useState(false);
  const [found, setFound] = useState<MatchingCount[] | null>(null);
  const [progress, setProgress] = useState<number | null>(null);
  const { error, isBusy, run } = useSteps(() => {
    setFound(null);
    setProgress(null);
  });
  const change = () => action.change(typed, isKept);
  const count = () =>
    run(async () => {
      const counts: MatchingCount[] = [];
      for (const query of queries) counts.push(await countMatching(query, change()));
      setFound(counts);
    });
  // What is typed is counted when it is complete.
  useEffect(() => {
    if (!action.field) count();
  }, []);
  const make = (expected: MatchingCount[]) =>
    run(async () => {
      if (save) await save(change());
      else await changeMatching(queries, change(), expected, setProgress);
      onDone();
    });
  const n = found ? streamsOf(found) : 0;
  const word = found ? t('bulk.title', { what: t(action.word), n }) : t('bulk.count');
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button
        class={found && action.isDangerous ? 'danger' : 'primary'}
        type="button"
        disabled={isBusy || (found !== null && n === 0)}
        onClick={() => (found ? make(found) : count())}
      >
        {word}
      </button>
    </>
  );
  return (
    <Dialog title={title} onClose={onClose} actions={actions}>
      {lead && <p class="muted">{lead}</p>}
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
        <CheckBox
          label={t('bulk.keep')}
          name="pinned"
          isChecked={isKept}
          onCheck={(isChecked) => {
            setKept(isChecked);
            setFound(null);
          }}
        />
      )}
      {found && <Found of={found} />}
      {progress !== null && (
        <p role="status">
          {t('bulk.progress', { n: f.count(progress), total: f.count(n) })}
        </p>
      )}
      <Failure error={error} />
    </Dialog>
  );
}

interface BulkMatchingProps {
  query: Filters;
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
      {action && (
        <ConfirmMatching
          title={t('bulk.matching', { what: t(action.word) })}
          queries={[query]}
          action={action}
          onDone={done}
          onClose={close}
        />
      )}
    </span>
  );
}
