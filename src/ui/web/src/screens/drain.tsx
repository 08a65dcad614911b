// The drain of a streamer: what would move and what finds no place, before it begins.
import { useEffect, useState } from 'preact/hooks';
import { beginDrain, previewDrain, targetsOf, type DrainPreview, type Target } from '../changes';
import { CheckBox, Dialog, Failure, Name, StreamerLink, TextInput } from '../parts';
import { useSteps } from '../steps';
import { code, pieces, t } from '../text';
import type { MaintenanceProps } from './streamer_actions';

/** Streams per minute that are proposed. */
const PACE = '200';

const SHOWN_TARGETS = 10;
/** A pause in typing that is the end of it. */
const TYPING_MS = 200;

/** Text that is no number is sent as it is. */
const paceOf = (typed: string) => (/^\d+$/.test(typed) ? Number(typed) : typed);

/** Where the streams go: the streamers that take most of them, and a number of the others. */
function Targets({ of }: { of: Target[] }) {
  const rest = of.slice(SHOWN_TARGETS);
  return (
    <ul class="targets">
      {of.slice(0, SHOWN_TARGETS).map(({ hostname, role, n }) => (
        <li key={`${hostname} ${role}`}>
          {pieces('streamer.takes', { n, name: <StreamerLink hostname={hostname} /> })}{' '}
          {role !== 'ingest' && <span class="label">{code('role', role)}</span>}
        </li>
      ))}
      {rest.length > 0 && (
        <li class="muted">
          {t('streamer.others_take', {
            n: rest.length,
            streams: rest.reduce((sum, { n }) => sum + n, 0),
          })}
        </li>
      )}
    </ul>
  );
}

/** What the layouter answers about the drain of a streamer. */
function Consequences({ hostname, of }: { hostname: string; of: DrainPreview }) {
  const targets = targetsOf(hostname, of.changes);
  return (
    <div class="consequences" role="status">
      <p lang="en">{of.summary}</p>
      {targets.length > 0 && <Targets of={targets} />}
      {!!of.hidden && <p class="muted">{t('whatif.hidden', { n: of.hidden })}</p>}
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
  // What is typed is previewed when typing pauses; only the last answer counts.
  useEffect(() => {
    const abort = new AbortController();
    const ask = () =>
      run(async () => {
        try {
          setPreview(await previewDrain(of, paceOf(pace), abort.signal));
        } catch (failed) {
          if (!abort.signal.aborted) throw failed;
        }
      });
    const timer = setTimeout(ask, preview === null && pace === PACE ? 0 : TYPING_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [of.path, pace]);
  const typePace = (text: string) => {
    setPace(text);
    setPreview(null);
  };
  const save = () =>
    run(async () => {
      await beginDrain(of, {
        reason,
        pace: paceOf(pace),
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
      {preview && <Consequences hostname={of.name} of={preview} />}
      <TextInput label={t('streamer.reason')} name="reason" value={reason} onType={setReason} />
      <TextInput label={t('streamer.pace')} name="pace" value={pace} onType={typePace} />
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
