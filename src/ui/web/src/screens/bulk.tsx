// Changes of picked streams: all or none, in one batch.
import { useRef, useState } from 'preact/hooks';
import { changeStreams, ConflictError } from '../changes';
import type { Session } from '../model';
import { Dialog, Failure, Name } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';

const SHOWN_NAMES = 8;

type Patch = Record<string, unknown>;
interface BulkAction {
  word: string;
  /** `null`: the label that is typed. */
  patch: Patch | null;
}

/** `key=value` as a patch of the labels. */
export function labelPatch(text: string): Patch {
  const [key = '', ...value] = text.split('=');
  return { labels: { [key.trim()]: value.join('=') || null } };
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
  const done = () => {
    setAction(null);
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
      {total !== null && total > names.length && (
        <button class="quiet all" onClick={onAll}>
          {t('streams.all', { n: total })}
        </button>
      )}
      <button class="quiet" onClick={onClear}>
        {t('streams.clear')}
      </button>
      {action && (
        <Confirm names={names} action={action} onDone={done} onClose={() => setAction(null)} />
      )}
    </span>
  );
}
