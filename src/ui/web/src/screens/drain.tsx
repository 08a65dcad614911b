// The drain of a streamer: what would move and what finds no place, before it begins.
import { useEffect, useState } from 'preact/hooks';
import { beginDrain, previewDrain, type DrainPreview } from '../changes';
import { CheckBox, Dialog, Failure, Name, TextInput } from '../parts';
import { useSteps } from '../steps';
import { t } from '../text';
import type { MaintenanceProps } from './streamer_actions';

/** Streams per minute that are proposed. */
const PACE = '200';

/** What the layouter answers about the drain. */
function Consequences({ of }: { of: DrainPreview }) {
  return (
    <div class="consequences" role="status">
      <p>{of.summary}</p>
      {of.no_place > 0 && (
        <>
          <p>{t('streamer.no_place', { n: of.no_place })}</p>
          <ul>
            {of.no_place_sample.map((name) => (
              <li key={name}>
                <Name name={name} link={false} />
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}

export function DrainDialog({ of, onClose, onSaved, onFailed }: MaintenanceProps) {
  const [reason, setReason] = useState('');
  const [pace, setPace] = useState(PACE);
  const [deadline, setDeadline] = useState('');
  const [returns, setReturns] = useState(true);
  const [preview, setPreview] = useState<DrainPreview | null>(null);
  const { error, isBusy, run } = useSteps(onFailed);
  useEffect(() => {
    run(async () => setPreview(await previewDrain(of)));
  }, [of.path]);
  const save = () =>
    run(async () => {
      await beginDrain(of, {
        reason,
        pace: /^\d+$/.test(pace) ? Number(pace) : pace,
        ...(deadline && { deadline }),
        return: returns,
      });
      onSaved();
    });
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy || !preview} onClick={save}>
        {preview ? t('streamer.drain_n', { n: preview.moves_caused }) : t('streamer.drain')}
      </button>
    </>
  );
  return (
    <Dialog title={t('streamer.drains', { name: of.name })} onClose={onClose} actions={actions}>
      <p>{t('streamer.drain_means')}</p>
      {preview && <Consequences of={preview} />}
      <TextInput label={t('streamer.reason')} name="reason" value={reason} onType={setReason} />
      <TextInput label={t('streamer.pace')} name="pace" value={pace} onType={setPace} />
      <TextInput
        label={t('streamer.deadline')}
        name="deadline"
        value={deadline}
        onType={setDeadline}
      />
      <CheckBox
        label={t('streamer.returns')}
        name="return"
        isChecked={returns}
        onCheck={setReturns}
      />
      <Failure error={error} />
    </Dialog>
  );
}
