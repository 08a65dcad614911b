// Changes of picked streams: each is counted and previewed first. A change of members is made to
// all of them or none, in one batch.
import { useState } from 'preact/hooks';
import { changeStreams, ConflictError, queriesOf, type MatchingChange } from '../changes';
import type { Session } from '../model';
import { t } from '../text';
import { ACTIONS, ConfirmMatching, type MatchingAction } from './bulk_all';
import { Move } from './move';

interface BulkProps {
  names: string[];
  me: Session;
  /** The number of all that match, and what picks them. */
  total: number | null;
  onAll: () => void;
  onDone: () => void;
  onClear: () => void;
}

interface ConfirmProps {
  names: string[];
  action: MatchingAction;
  onDone: () => void;
  onClose: () => void;
}

function Confirm({ action, onDone, onClose, ...props }: ConfirmProps) {
  // Without those that turned out to be deleted.
  const [names, setNames] = useState(props.names);
  const save = async (change: MatchingChange) => {
    if (!('patch' in change)) return;
    try {
      await changeStreams(names, change.patch);
    } catch (failed) {
      const gone = failed instanceof ConflictError ? failed.gone : [];
      setNames(names.filter((name) => !gone.includes(name)));
      throw failed;
    }
  };
  const isPatch = action.word !== 'streams.delete';
  return (
    <ConfirmMatching
      title={t('bulk.title', { what: t(action.word), n: names.length })}
      queries={queriesOf(names)}
      action={action}
      save={isPatch ? save : undefined}
      lead={isPatch ? t('bulk.atomic') : undefined}
      onDone={onDone}
      onClose={onClose}
    />
  );
}

export function Bulk({ names, me, total, onAll, onDone, onClear }: BulkProps) {
  const [action, setAction] = useState<MatchingAction | null>(null);
  const close = () => setAction(null);
  const done = () => {
    close();
    onDone();
  };
  const why = me.may.write ? undefined : t('error.not_permitted');
  return (
    <span class="bulk">
      <b>{t('streams.selected', { n: names.length })}</b>
      {ACTIONS.map((it) => (
        <button disabled={!me.may.write} title={why} onClick={() => setAction(it)}>
          {t(it.word)}
        </button>
      ))}
      {total !== null && total > names.length && (
        <button class="quiet all" onClick={onAll}>
          {t('streams.all', { n: total })}
        </button>
      )}
      <button class="quiet" onClick={onClear}>
        {t('streams.clear')}
      </button>
      {action?.word === 'streams.move' && <Move names={names} onClose={close} onMoved={done} />}
      {action && action.word !== 'streams.move' && (
        <Confirm names={names} action={action} onDone={done} onClose={close} />
      )}
    </span>
  );
}
