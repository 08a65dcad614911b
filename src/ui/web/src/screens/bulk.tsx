// Changes of picked streams: all or none, in one batch.
import { useRef, useState } from 'preact/hooks';
import { changeStreams, ConflictError, labelPatch, queriesOf, type Patch } from '../changes';
import type { Session } from '../model';
import { Dialog, Failure, Name } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';
import { ConfirmMatching, DELETION } from './bulk_all';
import { Move } from './move';

const SHOWN_NAMES = 8;

interface BulkAction {
  word: string;
  /** `null`: the label that is typed. */
  patch: Patch | null;
}

interface BulkProps {
  names: string[];
  me: Session;
  /** The number of all that match, and what picks them. */
  total: number | null;
  onAll: () => void;
  onDone: () => void;
  onClear: () => void;
}

function Confirm(props: {
  names: string[];
  action: BulkAction;
  onDone: () => void;
  onClose: () => void;
}) {
  const { action, onDone, onClose } = props;
  // Without those that turned out to be deleted.
  const [names, setNames] = useState(props.names);
  const { error, isBusy, run } = useSteps((failed) => {
    const gone = failed instanceof ConflictError ? failed.gone : [];
    setNames((old) => old.filter((name) => !gone.includes(name)));
  });
  const field = useRef<HTMLInputElement>(null);
  const save = () =>
    run(async () => {
      await changeStreams(names, action.patch ?? labelPatch(field.current?.value ?? ''));
      onDone();
    });
  const rest = names.length - SHOWN_NAMES;
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy || names.length === 0} onClick={save}>
        {action.word}
      </button>
    </>
  );
  const title = t('bulk.title', { what: action.word, n: names.length });
  return (
    <Dialog title={title} onClose={onClose} actions={actions}>
      <Failure error={error} />
      {action.patch === null && (
        <label class="stacked">
          {t('bulk.label')}
          <input ref={field} placeholder="customer=acme" autofocus />
        </label>
      )}
      <p>{t('bulk.atomic')}</p>
      <ul class="names">
        {names.slice(0, SHOWN_NAMES).map((name) => (
          <li>
            <Name name={name} link={false} />
          </li>
        ))}
        {rest > 0 && <li class="muted">{t('bulk.more', { n: rest })}</li>}
      </ul>
    </Dialog>
  );
}

export function Bulk({ names, me, total, onAll, onDone, onClear }: BulkProps) {
  const [action, setAction] = useState<BulkAction | null>(null);
  const actions: BulkAction[] = [
    { word: t('streams.disable'), patch: { disabled: true } },
    { word: t('streams.enable'), patch: { disabled: null } },
    { word: t('streams.label'), patch: null },
  ];
  const [dialog, setDialog] = useState<'move' | 'delete' | null>(null);
  const done = () => {
    setAction(null);
    setDialog(null);
    onDone();
  };
  const why = me.may.write ? undefined : t('error.not_permitted');
  return (
    <span class="bulk">
      <b>{t('streams.selected', { n: names.length })}</b>
      {actions.map((it) => (
        <button disabled={!me.may.write} title={why} onClick={() => setAction(it)}>
          {it.word}
        </button>
      ))}
      {(['move', 'delete'] as const).map((it) => (
        <button disabled={!me.may.write} title={why} onClick={() => setDialog(it)}>
          {t(`streams.${it}`)}
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
      {dialog === 'move' && (
        <Move names={names} onClose={() => setDialog(null)} onMoved={done} />
      )}
      {dialog === 'delete' && (
        <ConfirmMatching
          title={t('bulk.title', { what: t('streams.delete'), n: names.length })}
          queries={queriesOf(names)}
          action={DELETION}
          onDone={done}
          onClose={() => setDialog(null)}
        />
      )}
      {action && (
        <Confirm names={names} action={action} onDone={done} onClose={() => setAction(null)} />
      )}
    </span>
  );
}
