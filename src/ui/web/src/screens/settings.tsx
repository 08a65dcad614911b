// The settings of the server that take effect at once: their values, their sources, their change.
import { useState } from 'preact/hooks';
import { download } from '../download';
import * as f from '../format';
import type { Json } from '../json';
import type { Session } from '../model';
import { Dialog, Failure, Mark, Panel, TextInput, Warnings } from '../parts';
import { href, type ScreenProps } from '../router';
import { secretOf, UNCHANGED } from '../secret_change';
import { isSecret, mayBeRemoved, secretValue, typedValue } from '../settings';
import type { Settings as ServerSettings } from '../settings';
import { saveSetting, useSettings } from '../settings_query';
import { useSteps } from '../steps';
import { t } from '../text';
import { SecretField } from './secret_field';
import { Field, SettingValue, settingWord } from './setting_value';

interface ChangeProps {
  settings: ServerSettings;
  name: string;
  onSaved: (now: ServerSettings) => void;
  onClose: () => void;
}

/** A change of one setting. The server checks it, and its sentence is shown. */
function Change({ settings, name, onSaved, onClose }: ChangeProps) {
  const present = settings.values[name] ?? null;
  const [text, setText] = useState(present === null ? '' : String(present));
  const { error, isBusy, run } = useSteps();
  const save = (value: () => Json) => run(async () => onSaved(await saveSetting(name, value())));
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      {settings.sources[name]?.from === 'file' && (
        <button type="button" disabled={isBusy} onClick={() => save(() => null)}>
          {t('setting.reset')}
        </button>
      )}
      <button
        type="button"
        class="primary"
        disabled={isBusy}
        onClick={() => save(() => typedValue(name, text))}
      >
        {t('edit.save')}
      </button>
    </>
  );
  return (
    <Dialog title={settingWord(name)} onClose={onClose} actions={actions}>
      <p class="muted">
        <code>{name}</code>
      </p>
      <Field name={name} text={text} onType={setText} />
      <Failure error={error} />
    </Dialog>
  );
}

/** A change of a secret setting: a new value, or none. The present one is not known here. */
function ChangeSecret({ name, onSaved, onClose }: Omit<ChangeProps, 'settings'>) {
  const [secret, setSecret] = useState(UNCHANGED);
  const [login, setLogin] = useState('');
  const { error, isBusy, run } = useSteps();
  const save = () =>
    run(async () => {
      const text = secretOf(secret);
      if (text === undefined) return;
      const value = text === null ? null : secretValue(name, login, text);
      onSaved(await saveSetting(name, value));
    });
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button
        type="button"
        class="primary"
        disabled={isBusy || secret.action === 'keep'}
        onClick={save}
      >
        {t('edit.save')}
      </button>
    </>
  );
  const isLogin = name === 'edit_auth';
  return (
    <Dialog title={settingWord(name)} onClose={onClose} actions={actions}>
      <p class="muted">
        <code>{name}</code>
      </p>
      {isLogin && secret.action === 'new' && (
        <TextInput
          label={t('setting.login_name')}
          name="login"
          value={login}
          onType={setLogin}
        />
      )}
      <SecretField
        label={isLogin ? t('setting.password') : settingWord(name)}
        name="secret"
        of={secret}
        mayRemove={mayBeRemoved(name)}
        onChange={setSecret}
      />
      <p class="muted">{t('setting.ends_sessions')}</p>
      <Failure error={error} />
    </Dialog>
  );
}

interface ChangeButtonProps {
  name: string;
  me: Session;
  onChange: () => void;
}

function ChangeButton({ name, me, onChange }: ChangeButtonProps) {
  return (
    <button
      disabled={!me.may.admin}
      aria-label={t('setting.change', { name: settingWord(name) })}
      onClick={onChange}
    >
      {t('stream.edit')} …
    </button>
  );
}

interface RowProps extends ChangeButtonProps {
  settings: ServerSettings;
}

function Row({ settings, name, me, onChange }: RowProps) {
  return (
    <li>
      <span>
        {settingWord(name)} <code class="muted">{name}</code>
      </span>
      <span>
        <SettingValue settings={settings} name={name} isSecret={isSecret(name)} />
      </span>
      {name === 'layouter_enabled' ? (
        // There it is asked first, because streams move.
        <a class="button" href={href('layouter')}>
          {t('nav.layouter')}
        </a>
      ) : (
        <ChangeButton name={name} me={me} onChange={onChange} />
      )}
    </li>
  );
}

/** A backup of all that is stored, as a file. */
function Backup({ me }: { me: Session }) {
  const [bytes, setBytes] = useState(0);
  const [isDone, setDone] = useState(false);
  const { error, isBusy, run } = useSteps();
  const start = () =>
    run(async () => {
      setDone(false);
      setBytes(0);
      const day = new Date().toISOString().slice(0, 10);
      setDone(await download('/backup', `weir-${day}.backup`, setBytes));
    });
  const size = f.bytes(bytes);
  return (
    <>
      <div class="bar-top">
        <button
          disabled={isBusy || !me.may.admin}
          title={me.may.admin ? undefined : t('error.administrators_only')}
          onClick={start}
        >
          {t('backup.download')} …
        </button>
        {isBusy && <span class="muted">{t('backup.running', { size })}</span>}
        {/* Its result alone is announced, not every piece. */}
        <span role="status">{isDone && t('backup.done', { size })}</span>
      </div>
      <Failure error={error} />
    </>
  );
}

export function Settings({ me }: ScreenProps) {
  const query = useSettings();
  const [changed, setChanged] = useState<string | null>(null);
  const [warnings, setWarnings] = useState<string[]>([]);
  const settings = query.data;
  if (!settings) {
    return query.error ? (
      <Failure error={query.error} again={query.again} />
    ) : (
      <p class="boot">{t('loading')}</p>
    );
  }
  const saved = (now: ServerSettings) => {
    setChanged(null);
    setWarnings(now.warnings);
    query.again();
  };
  const waiting = settings.restart.join(', ');
  return (
    <>
      <div class="bar-top">
        <h1>{t('nav.settings')}</h1>
        <span class="grow" />
        {!me.may.admin && <span class="muted">{t('error.administrators_only')}</span>}
      </div>
      <Warnings of={warnings} />
      {waiting && (
        <p class="warning">
          <Mark of="waiting" /> {t('setting.restart', { names: waiting })}
        </p>
      )}
      <Failure error={query.error} again={query.again} />
      <Backup me={me} />
      <Panel title={t('setting.at_once')}>
        <ul class="settings">
          {Object.keys(settings.sources).map((name) => (
            <Row
              key={name}
              settings={settings}
              name={name}
              me={me}
              onChange={() => setChanged(name)}
            />
          ))}
        </ul>
      </Panel>
      {changed !== null && isSecret(changed) && (
        <ChangeSecret name={changed} onSaved={saved} onClose={() => setChanged(null)} />
      )}
      {changed !== null && !isSecret(changed) && (
        <Change
          settings={settings}
          name={changed}
          onSaved={saved}
          onClose={() => setChanged(null)}
        />
      )}
    </>
  );
}
