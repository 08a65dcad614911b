// A test of an authorization backend: what it decides about an assumed viewer.
import { useState } from 'preact/hooks';
import { post } from '../api';
import type { Session } from '../model';
import { Failure, Mark } from '../parts';
import { useSteps } from '../steps';
import { pieces, t } from '../text';

interface TestResult {
  decision: 'allowed' | 'denied';
  by: string;
  country?: string;
  backends?: { reply: 'allowed' | 'denied' | 'failed' | 'none'; status?: number }[];
}

const FIELDS = ['ip', 'token', 'user_agent', 'stream'] as const;

function Result({ of: { decision, by, country, backends = [] } }: { of: TestResult }) {
  const word = decision === 'allowed' ? t('auth.allowed') : t('auth.denied');
  return (
    <>
      <p class="lead">
        <Mark of={decision === 'allowed' ? 'up' : 'error'} /> <b>{word}</b>{' '}
        <span class="muted">
          {pieces('auth_test.by', { rule: <code translate={false}>{by}</code> })}
          {country && (
            <>
              {' · '}
              <span translate={false}>{country}</span>
            </>
          )}
        </span>
      </p>
      {backends.length > 0 && (
        <ol>
          {backends.map(({ reply, status }) => (
            <li>
              {t(`auth_test.${reply}`)} {status && <span class="muted">{status}</span>}
            </li>
          ))}
        </ol>
      )}
    </>
  );
}

/** Nothing is kept of a test. `path` is that of the backend. */
export function AuthTest({ path, me }: { path: string; me: Session }) {
  const [viewer, setViewer] = useState<Partial<Record<(typeof FIELDS)[number], string>>>({});
  const [result, setResult] = useState<TestResult | null>(null);
  const { error, isBusy, run } = useSteps(() => setResult(null));
  const test = () =>
    run(async () => {
      const given = Object.entries(viewer).filter(([, value]) => value !== '');
      setResult(await post<TestResult>(`${path}/test`, { body: Object.fromEntries(given) }));
    });
  return (
    <fieldset class="stacked" disabled={isBusy || !me.may.execute}>
      <legend>{t('auth_test.title')}</legend>
      {FIELDS.map((field) => (
        <label class="stacked">
          {t(`auth_test.${field}`)}
          <input
            name={`test-${field}`}
            autocomplete="off"
            value={viewer[field] ?? ''}
            onInput={(event) => {
              setViewer({ ...viewer, [field]: event.currentTarget.value });
              setResult(null);
            }}
          />
        </label>
      ))}
      <button type="button" class="test" onClick={test}>
        {t('auth_test.test')}
      </button>
      {!me.may.execute && <span class="muted">{t('error.may_not_execute')}</span>}
      <div role="status">{result && <Result of={result} />}</div>
      <Failure error={error} />
    </fieldset>
  );
}
