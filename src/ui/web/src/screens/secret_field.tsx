// A secret in a dialog: unchanged, a new value, or removed. The present value is never shown.
import { Tabs } from '../parts';
import { UNCHANGED, type SecretAction, type SecretChange } from '../secret_change';
import { t } from '../text';

interface SecretFieldProps {
  label: string;
  name: string;
  of: SecretChange;
  mayRemove?: boolean;
  isFixed?: boolean;
  onChange: (change: SecretChange) => void;
}

export function SecretField(props: SecretFieldProps) {
  const { label, name, of, mayRemove = false, isFixed = false, onChange } = props;
  const actions: [SecretAction, string][] = [
    ['keep', t('secret.keep')],
    ['new', t('secret.new')],
    ['remove', t('secret.remove')],
  ];
  const offered = actions.filter(([action]) => mayRemove || action !== 'remove');
  const pick = (action: SecretAction) => onChange({ ...UNCHANGED, action });
  return (
    <fieldset class="secret" disabled={isFixed}>
      <legend>{label}</legend>
      <Tabs label={label} of={offered} value={of.action} onPick={pick} />
      {of.action === 'new' && (
        <input
          type="password"
          name={name}
          aria-label={label}
          autocomplete="new-password"
          value={of.text}
          onInput={(event) => onChange({ action: 'new', text: event.currentTarget.value })}
        />
      )}
    </fieldset>
  );
}
