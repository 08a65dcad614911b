// The dialog about this browser: appearance, zone of times, the session, the last requests.
import { useState } from 'preact/hooks';
import { requestLog } from './api';
import * as f from './format';
import type { Session } from './model';
import { Choice, Dialog, Tabs } from './parts';
import { chooseLanguage, isLanguageChosen, locale, offered, t } from './text';
import { chooseTheme, theme, type Theme } from './theme';

const SHOWN_REQUESTS = 12;

function Requests() {
  return (
    <>
      <h3>{t('menu.requests')}</h3>
      <table class="mini">
        <tbody>
          {requestLog.slice(0, SHOWN_REQUESTS).map((request) => (
            <tr>
              <td>{request.status}</td>
              <td class="num">{t('unit.ms', { n: Math.round(request.ms) })}</td>
              <td class="num">{f.bytes(request.bytes)}</td>
              <td class="cut" translate={false}>
                {request.method} {request.path}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

/** The choice of a language, where there are several. */
function LanguageField() {
  if (offered.length < 2) return null;
  const names = offered.map((it): [string, string] => [it.locale, it.name]);
  return (
    <p class="field">
      <span>{t('menu.language')}</span>
      <Choice
        label={<span class="hidden">{t('menu.language')}</span>}
        value={isLanguageChosen ? locale : ''}
        none={t('menu.preferred')}
        of={names}
        areNames
        onPick={(name) => chooseLanguage(name || null)}
      />
    </p>
  );
}

export function Menu({ me, onLogout }: { me: Session; onLogout: () => void }) {
  const [isOpen, setOpen] = useState(false);
  const [chosen, setTheme] = useState<Theme>(theme());
  const [isUtc, setUtc] = useState(f.zone.utc);
  const themes = (['system', 'light', 'dark'] as const).map((name): [Theme, string] => [
    name,
    t(`theme.${name}`),
  ]);
  const zones: [boolean, string][] = [
    [false, t('menu.local')],
    [true, t('menu.utc')],
  ];
  const pickTheme = (value: Theme) => {
    chooseTheme(value);
    setTheme(value);
  };
  const pickZone = (value: boolean) => {
    f.chooseUtc(value);
    setUtc(value);
  };
  return (
    <>
      <button class="quiet who" onClick={() => setOpen(true)} aria-haspopup="dialog">
        <span class="avatar" aria-hidden="true" translate={false}>
          {me.user.slice(0, 1).toUpperCase()}
        </span>
        <span class="who-name" translate={false}>{me.user}</span>
        <span class="hidden">: {t('menu.open')}</span>
      </button>
      {isOpen && (
        <Dialog title={t('menu.title')} onClose={() => setOpen(false)}>
          <p>
            <a href={`${location.pathname}docs/`}>{t('menu.docs')}</a>
          </p>
          <div class="field">
            <span>{t('menu.appearance')}</span>
            <Tabs label={t('menu.appearance')} of={themes} value={chosen} onPick={pickTheme} />
          </div>
          <LanguageField />
          <div class="field">
            <span>{t('menu.times')}</span>
            <Tabs label={t('menu.times')} of={zones} value={isUtc} onPick={pickZone} />
          </div>
          <p class="field">
            <span>{t('menu.user')}</span>
            <b>
              <span translate={false}>{me.user}</span> {!me.may.write && <span class="label">{t('menu.readonly')}</span>}
            </b>
          </p>
          <p class="field">
            <span />
            <button type="button" onClick={onLogout}>
              {t('menu.logout')}
            </button>
          </p>
          <Requests />
        </Dialog>
      )}
    </>
  );
}
