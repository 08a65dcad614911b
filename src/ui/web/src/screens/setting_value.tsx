// The value of a setting in words, and where it comes from.
import * as f from '../format';
import type { Json } from '../json';
import { Tabs } from '../parts';
import { kindOf, type SettingSource, type Settings } from '../settings';
import { code, t } from '../text';

const isOn = (value: Json) => value === true || value === 'true';

function inWords(name: string, value: Json): string {
  if (value === null) return t('setting.unset');
  switch (kindOf(name)) {
    case 'word':
    case 'flag':
      return isOn(value) ? t('setting.on') : t('setting.off');
    case 'ms':
      return f.milliseconds(Number(value));
    case 'number':
      return f.count(Number(value));
    case 'text':
      return String(value);
  }
}

export const isSwitchedOn = ({ values }: Settings, name: string) => isOn(values[name] ?? null);

export function Source({ of }: { of: SettingSource | undefined }) {
  if (!of) return null;
  return (
    <span class="muted">
      {t(`source.${of.from}`)} {of.name && <span translate={false}>{of.name}</span>}
    </span>
  );
}

interface SettingValueProps {
  settings: Settings;
  name: string;
  /** Its value is not known here. */
  isSecret?: boolean;
}

export function SettingValue({ settings, name, isSecret = false }: SettingValueProps) {
  const word = isSecret ? t('setting.secret') : inWords(name, settings.values[name] ?? null);
  return (
    <>
      <b translate={kindOf(name) !== 'text'}>{word}</b> <Source of={settings.sources[name]} />
    </>
  );
}

interface FieldProps {
  name: string;
  text: string;
  onType: (text: string) => void;
}

/** The field in which a setting is changed, by what it holds. */
export function Field({ name, text, onType }: FieldProps) {
  const kind = kindOf(name);
  if (kind === 'word' || kind === 'flag') {
    const words: [string, string][] = [
      ['true', t('setting.on')],
      ['false', t('setting.off')],
    ];
    return <Tabs label={settingWord(name)} of={words} value={text} onPick={onType} />;
  }
  return (
    <label class="stacked">
      {kind === 'ms' ? t('setting.in_ms') : t('setting.value')}
      <input
        name="value"
        autocomplete="off"
        autofocus
        inputMode={kind === 'text' ? 'text' : 'numeric'}
        value={text}
        onInput={(event) => onType(event.currentTarget.value)}
      />
    </label>
  );
}

/** The name of a setting in words; one that is not known here by its own name. */
export const settingWord = (name: string) => code('setting', name);
