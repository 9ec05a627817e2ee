from paddleseg_psp.commands.compare_predictions import main

if __name__ == "__main__":
    main()
