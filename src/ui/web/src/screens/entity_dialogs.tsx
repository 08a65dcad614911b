// Making, editing and deleting an entity of a list. Secrets that the server makes are shown once.
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { get, post } from '../api';
import { changeShown, checkedPatch, create, isLate, removeShown, tagOf } from '../changes';
import type { Shown } from '../changes';
import { differencesOf, type Difference } from '../comparison';
import { parse, url } from '../json';
import type { Session } from '../model';
import { Copy, Dialog, Failure, TextInput } from '../parts';
import { UNCHANGED, withSecret } from '../secret_change';
import { useSteps } from '../steps';
import { t } from '../text';
import { AuthTest } from './auth_test';
import { Conflict } from './conflict';
import { pathOf, type Entity, type EntityKind } from './entity_kind';
import { SecretField } from './secret_field';

function PatchField(props: { text: string; onType: (text: string) => void; isFixed?: boolean }) {
  return (
    <label class="stacked">
      {t('edit.patch')}
      <textarea
        rows={9}
        spellcheck={false}
        readOnly={props.isFixed}
        value={props.text}
        onInput={(event) => props.onType(event.currentTarget.value)}
      />
    </label>
  );
}

/** The only time that a key is shown: it is gone with the dialog. */
function MadeKey({ secret, onClose }: { secret: string; onClose: () => void }) {
  const actions = <button class="primary">{t('close')}</button>;
  return (
    <Dialog title={t('entity.key')} onClose={onClose} actions={actions}>
      <p>{t('entity.key_once')}</p>
      <p class="made-key">
        <code>{secret}</code> <Copy text={secret} />
      </p>
    </Dialog>
  );
}

interface NewProps {
  kind: EntityKind;
  onClose: () => void;
  onSaved: () => void;
}

export function NewEntity({ kind, onClose, onSaved }: NewProps) {
  const [name, setName] = useState('');
  const [text, setText] = useState(JSON.stringify(kind.example, null, 2));
  const [secret, setSecret] = useState<string | null>(null);
  const { error, isBusy, run } = useSteps();
  const save = () =>
    run(async () => {
      const patch = checkedPatch(text);
      const made = await create<Entity>(pathOf(kind, name), name, patch);
      // A key that was typed is known already.
      const isMade = typeof made.key === 'string' && !patch.includes(made.key);
      if (isMade) setSecret(String(made.key));
      else onSaved();
    });
  if (secret !== null) return <MadeKey secret={secret} onClose={onSaved} />;
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy || !name} onClick={save}>
        {t('edit.save')}
      </button>
    </>
  );
  return (
    <Dialog title={t(`new.${kind.screen}`)} onClose={onClose} actions={actions}>
      <TextInput label={t('entity.name')} name="name" value={name} onType={setName} />
      <PatchField text={text} onType={setText} />
      <Failure error={error} />
    </Dialog>
  );
}

interface Found extends Shown {
  row: Entity;
}

/** The version that is stored now, without secrets: they are masked in lists. */
async function find(kind: EntityKind, name: string): Promise<Found> {
  const path = pathOf(kind, name);
  const etag = await tagOf(path);
  const query = { [kind.key]: name, limit: 1, select: kind.select };
  const page = await get<Record<string, Entity[]>>(url(kind.path, query));
  const row = page[kind.collection]?.[0];
  if (!row) throw new Error(t('change.gone', { n: 1, names: name }));
  return { path, name, etag, row };
}

const editedText = (kind: EntityKind, row: Entity) => {
  const members = kind.editable.filter((member) => row[member] !== undefined);
  const given = members.map((member) => [member, row[member]]);
  return JSON.stringify(Object.fromEntries(given), null, 2);
};

/** Two clicks: the second one has the verb with a question mark before it. */
function Command({ word, onRun }: { word: string; onRun: () => void }) {
  const [isAsked, setAsked] = useState(false);
  const click = () => {
    if (isAsked) onRun();
    setAsked(!isAsked);
  };
  return (
    <button type="button" class={isAsked ? 'danger' : ''} onClick={click}>
      {isAsked ? t('entity.sure', { what: word }) : word}
    </button>
  );
}

function Commands({ kind, name, me }: { kind: EntityKind; name: string; me: Session }) {
  const { error, isBusy, run } = useSteps();
  const [done, setDone] = useState('');
  if (kind.commands.length === 0) return null;
  const send = (command: string, word: string) =>
    run(async () => {
      setDone('');
      await post(`${pathOf(kind, name)}/${command}`, {});
      setDone(t('entity.sent', { what: word }));
    });
  return (
    <fieldset disabled={isBusy || !me.may.execute}>
      <legend>{t('entity.commands')}</legend>
      {kind.commands.map(([command, word]) => (
        <Command word={word} onRun={() => send(command, word)} />
      ))}
      {!me.may.execute && <span class="muted">{t('error.may_not_execute')}</span>}
      <span role="status">{done}</span>
      <Failure error={error} />
    </fieldset>
  );
}

interface DeletionProps {
  of: Shown;
  /** What depends on it. */
  lead?: string;
  onClose: () => void;
  onSaved: () => void;
}

export function Deletion({ of, lead, onClose, onSaved }: DeletionProps) {
  const [typed, setTyped] = useState('');
  const { error, isBusy, run } = useSteps();
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button
        class="danger"
        type="button"
        disabled={isBusy || typed !== of.name}
        onClick={() =>
          run(async () => {
            await removeShown(of);
            onSaved();
          })
        }
      >
        {t('entity.delete')}
      </button>
    </>
  );
  return (
    <Dialog title={t('entity.deletes', { name: of.name })} onClose={onClose} actions={actions}>
      {lead && <p class="lead">{lead}</p>}
      <TextInput
        label={t('entity.type_name', { name: of.name })}
        name="typed"
        value={typed}
        onType={setTyped}
      />
      <Failure error={error} />
    </Dialog>
  );
}

interface EditProps extends NewProps {
  name: string;
  me: Session;
}

export function EditEntity({ kind, name, me, onClose, onSaved }: EditProps) {
  const [found, setFound] = useState<Found | null>(null);
  const [text, setText] = useState('');
  // Since the first version that was shown, however often a save came too late.
  const [late, setLate] = useState<{ before: Entity; differences: Difference[] } | null>(null);
  const [secret, setSecret] = useState(UNCHANGED);
  const [isDeleting, setDeleting] = useState(false);
  const { error, isBusy, run } = useSteps();
  useEffect(() => {
    run(async () => {
      const now = await find(kind, name);
      setFound(now);
      setText(editedText(kind, now.row));
    });
  }, [kind, name]);
  if (isDeleting && found) return <Deletion of={found} onClose={onClose} onSaved={onSaved} />;
  const mayWrite = kind.mayWrite(me);
  const save = (of: Found) =>
    run(async () => {
      const patch = checkedPatch(text);
      const { member = '' } = kind.secret ?? {};
      try {
        await changeShown(of, withSecret(patch, member, secret));
      } catch (failed) {
        if (!isLate(failed)) throw failed;
        const before = late ? late.before : of.row;
        const now = await find(kind, name);
        setLate({ before, differences: differencesOf(before, now.row, parse(patch)) });
        setFound(now);
        return;
      }
      onSaved();
    });
  const type = (next: string) => {
    setText(next);
    setLate(null);
  };
  const isOff = isBusy || !mayWrite || !found;
  const actions: ComponentChildren = (
    <>
      <button class="quiet">{t('cancel')}</button>
      {late ? (
        <button type="button" disabled={isBusy} onClick={onSaved}>
          {t('conflict.drop')}
        </button>
      ) : (
        <button type="button" disabled={isOff} onClick={() => setDeleting(true)}>
          {t('entity.delete')} …
        </button>
      )}
      <button class="primary" type="button" disabled={isOff} onClick={() => found && save(found)}>
        {late ? t('conflict.save') : t('edit.save')}
      </button>
    </>
  );
  return (
    <Dialog title={name} isName onClose={onClose} actions={actions}>
      {!mayWrite && <p class="muted">{kind.whyNot}</p>}
      {found && <PatchField text={text} onType={type} isFixed={!mayWrite} />}
      {found && kind.secret && (
        <SecretField
          label={t('secret.key')}
          name="secret"
          of={secret}
          mayRemove={kind.secret.mayRemove}
          isFixed={!mayWrite}
          onChange={setSecret}
        />
      )}
      <Failure error={error} />
      {late && <Conflict of={late.differences} />}
      {found && kind.screen === 'auth' && <AuthTest path={pathOf(kind, name)} me={me} />}
      {found && <Commands kind={kind} name={name} me={me} />}
    </Dialog>
  );
}
