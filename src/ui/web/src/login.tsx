// The page on which a browser gets its session.
import { useState } from 'preact/hooks';
import { ApiError, session } from './api';
import type { Session } from './model';
import { Tabs } from './parts';
import { t } from './text';

type By = 'key' | 'password';

function Fields({ by }: { by: By }) {
  if (by === 'key') {
    return (
      <label key="key">
        {t('login.key')}
        <input name="key" type="password" autocomplete="current-password" required autofocus />
      </label>
    );
  }
  return (
    <>
      <label key="login">
        {t('login.login')}
        <input name="login" autocomplete="username" required autofocus />
      </label>
      <label key="password">
        {t('login.password')}
        <input name="password" type="password" autocomplete="current-password" required />
      </label>
    </>
  );
}

/** What prevented the login: the server's sentence, or that it cannot be reached. */
const failure = (error: unknown) =>
  error instanceof ApiError ? error.message : t('login.offline');

export function Login({ onDone }: { onDone: (session: Session) => void }) {
  const [by, setBy] = useState<By>('key');
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setBusy] = useState(false);
  const send = async (event: SubmitEvent & { currentTarget: HTMLFormElement }) => {
    event.preventDefault();
    const fields = [...new FormData(event.currentTarget)];
    const credentials = fields.map(([name, value]) => [name, String(value)] as const);
    setBusy(true);
    setError(null);
    try {
      onDone(await session.open(Object.fromEntries(credentials)));
    } catch (failed) {
      setError(failure(failed));
    }
    setBusy(false);
  };
  const ways: [By, string][] = [
    ['key', t('login.by_key')],
    ['password', t('login.by_password')],
  ];
  return (
    <main class="login">
      <form onSubmit={send}>
        <img src="icon.svg" width="40" height="40" alt="" />
        <h1 translate={false}>Weir</h1>
        <Tabs label={t('login.by')} of={ways} value={by} onPick={setBy} />
        <Fields by={by} />
        {error && (
          <p class="failure" role="alert">
            {error}
          </p>
        )}
        <button class="primary" disabled={isBusy}>
          {t('login.title')}
        </button>
        <p class="muted">{t('login.lead')}</p>
      </form>
    </main>
  );
}
